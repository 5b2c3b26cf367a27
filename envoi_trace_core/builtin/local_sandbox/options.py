"""What `--sandbox-opt` can set for the `local` sandbox. Light: `envoi-trace plugins` imports it."""

from __future__ import annotations

from typing import Literal

import attrs

from envoi_trace_core.specs import option

Isolation = Literal["auto", "bwrap", "none"]
Network = Literal["on", "off"]


@attrs.frozen(kw_only=True)
class LocalSandboxOptions:
    """The options of the `local` sandbox."""

    isolation: Isolation = option(
        "auto", "auto: bubblewrap, else none for an agent that runs no model; bwrap; none: nothing is kept apart"
    )
    network: Network = option("on", "off: a network of its own with nothing in it (needs bubblewrap)")
    read: str = option("", "more folders or files that commands may read, as PATH:PATH")
    max_lifetime_s: float = option(0.0, "a sandbox ends for good after that, as in a cloud; 0: no bound", unit="s")
    root: str = option("", "folder in which sandboxes are made; default: sandboxes/ in the state directory", path=True)
