"""The options of the `modal` sandbox. Light: `envoi-trace plugins` imports it."""

from __future__ import annotations

import attrs

from envoi_trace_core.specs import option


@attrs.frozen(kw_only=True)
class ModalOptions:
    """What `--sandbox-opt` sets. The token is no option: it comes from `modal setup` or MODAL_TOKEN_ID and _SECRET."""

    app: str = option("envoi-trace-sandboxes", "name of the Modal app that sandboxes belong to; made when missing")
    environment: str = option("", "Modal environment; default: the profile's")
    image: str = option("", "image to build on when the environment has no Dockerfile; default: Debian with Python")
    cpu: float = option(2.0, "cores that a sandbox asks for")
    memory_mib: int = option(2048, "memory that a sandbox asks for", unit="MiB")
    gpu: str = option("", "graphics card, as Modal names it: T4, A100-80GB, H100:2")
    region: tuple[str, ...] = option((), "regions where a sandbox may run, as Modal names them")
    cloud: str = option("", "whose machines: aws, gcp, oci, auto")
    timeout: float = option(0.0, "ends a sandbox after that long, whatever runs; 0: as the run needs it", unit="s")
    idle_timeout: float = option(0.0, "ends a sandbox that did nothing for so long; 0: never", unit="s")
    volumes: tuple[str, ...] = option((), "volumes by name, each with its place: data=/data")
    secrets: tuple[str, ...] = option((), "secrets by name; commands see their variables")
    internet: bool = option(True, "whether sandboxes reach the internet")
    busy_wait: float = option(600.0, "how long to wait when Modal asks for patience at a create", unit="s")
