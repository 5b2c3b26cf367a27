"""The configuration of one trajectory: all that a run, or its resume anywhere, needs. It holds no secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Literal

import attrs

from envoi_trace_core.errors import TraceFormatError

if TYPE_CHECKING:
    from cattrs import Converter

EvalSandbox = Literal["separate", "shared"]


@attrs.frozen(kw_only=True)
class RunConfig:
    """What `envoi-trace` was asked to run. Paths are absolute; `*_opts` are `KEY=VALUE` words without secrets."""

    trajectory_id: str
    task: str
    environment: str

    agent: str
    model: str | None = None
    agent_opts: tuple[str, ...] = ()
    sandbox: str
    sandbox_opts: tuple[str, ...] = ()
    storage: str
    storage_opts: tuple[str, ...] = ()

    params: Mapping[str, str] = attrs.field(factory=dict)
    lang: str = "en"
    hidden: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    batch: str | None = None
    trial: int | None = None
    forked_from: str | None = None
    forked_at_part: int | None = None

    eval_sandbox: EvalSandbox = "separate"
    eval_concurrency: int = 1
    eval_grace_s: float = 600.0

    max_parts: int = 1000
    max_turns: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    timeout_s: float = 14400.0
    idle_timeout_s: float = 1800.0
    turn_timeout_s: float | None = None

    auto_resume: bool = True
    max_restarts: int = 20
    restart_delay_s: float = 10.0

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(_converter().unstructure(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read what `to_json` wrote.

        Raises:
            TraceFormatError: It is damaged, or from a version that this one does not know.
        """
        try:
            return _converter().structure(json.loads(text), cls)
        except Exception as error:  # cattrs groups errors of any class
            raise TraceFormatError(
                f"the stored configuration of the run can't be read: {error!r:.300}",
                mend="start a new trajectory, or give every option again with --trajectory-id",
            ) from error


@cache
def _converter() -> Converter:
    from envoi_trace_core.trace.strict import strict_converter

    return strict_converter()
