"""What `--launcher-opt` can set. Light: `envoi-trace plugins` imports it."""

from __future__ import annotations

import attrs

from envoi_trace_core.specs import option


@attrs.frozen(kw_only=True)
class ModalLauncherOptions:
    """The options of the `modal` launcher."""

    app: str = option("envoi-trace", "first words of the name of the Modal app; the rest tells versions apart")
    environment: str = option("", "Modal environment; default: the profile's")
    cpu: float = option(1.0, "cores of the orchestrator")
    memory_mib: int = option(2048, "memory of the orchestrator", unit="MiB")
    region: str = option("", "where it runs, as Modal names regions; default: anywhere")
    preemptible: bool = option(False, "a third of the price, and the run may move to another machine at any time")
    max_retries: int = option(3, "how often Modal starts it again after a crash; a preemption does not count")
    index_url: str = option("", "package index that has what runs here; default: PyPI")
