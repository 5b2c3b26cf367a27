"""The options of the `e2b` sandbox."""

from __future__ import annotations

from typing import Literal

import attrs

from envoi_trace_core.specs import option

Plan = Literal["hobby", "pro"]
OnTimeout = Literal["pause", "kill"]


@attrs.frozen(kw_only=True)
class E2bOptions:
    """What `--sandbox-opt` sets. The key is no option: it comes from E2B_API_KEY."""

    template: str = option("", "a template of yours, used as it is; default: one is built from the environment")
    base_image: str = option("", "image to build on when the environment has no Dockerfile; default: E2B's own")
    cpu: int = option(2, "cores of a sandbox whose template is built here")
    memory_mb: int = option(2048, "memory of a sandbox whose template is built here; even", unit="MiB")
    plan: Plan = option("hobby", "of your account: how long a sandbox may live, an hour (hobby) or a day (pro)")
    max_lifetime_s: float = option(0.0, "how long a sandbox may live on your own E2B; 0: as the plan says", unit="s")
    on_timeout: OnTimeout = option("pause", "what E2B does with a sandbox whose time is over or whose run died")
    internet: bool = option(True, "whether sandboxes reach the internet")
    wait_s: float = option(1800.0, "how long to wait for a sandbox when the account has no more to give", unit="s")
