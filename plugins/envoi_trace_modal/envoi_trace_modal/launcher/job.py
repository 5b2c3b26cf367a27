"""What a run on Modal is told, and what it tells: text, so that no class need be the same on both sides."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

import attrs

from envoi_trace_core.errors import (
    AgentError,
    EnvoiTraceError,
    HarnessError,
    InterruptedRunError,
    PluginError,
    SandboxError,
    StorageError,
    TraceFormatError,
    UsageError,
)
from envoi_trace_core.run.outcome import RunOutcome

if TYPE_CHECKING:
    from cattrs import Converter

_ERRORS: tuple[type[EnvoiTraceError], ...] = (
    *(UsageError, PluginError, AgentError, SandboxError, StorageError, HarnessError, TraceFormatError),
    InterruptedRunError,
)


@attrs.frozen(kw_only=True)
class Job:
    """One run."""

    config: str
    """`RunConfig.to_json`, without any secret; its paths are those of the user's machine."""
    task_hash: str
    environment_hash: str
    secret: str | None
    """The name of the run's secret: the run takes it away when it is over."""
    modal_environment: str | None
    launched_at: datetime
    """The run's timeout counts from here, over all its restarts."""

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps(_converter().unstructure(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` wrote."""
        return _converter().structure(json.loads(text), cls)


@attrs.frozen(kw_only=True)
class Failure:
    """An error that ended a run before it could begin."""

    kind: str
    message: str
    mend: str | None


@attrs.frozen(kw_only=True)
class Report:
    """How a run ended: one of the two."""

    outcome: RunOutcome | None = None
    failure: Failure | None = None

    @classmethod
    def of(cls, error: EnvoiTraceError) -> Report:
        """Of an error."""
        return cls(failure=Failure(kind=type(error).__name__, message=error.message, mend=error.mend))

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps(_converter().unstructure(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """What `to_json` wrote.

        Raises:
            SandboxError: It is something else.
        """
        try:
            return _converter().structure(json.loads(text), cls)
        except Exception as error:  # cattrs raises anything
            raise SandboxError(f"what the run on Modal told of its end can't be read: {text[:200]!r}") from error

    def unwrap(self) -> RunOutcome:
        """The outcome.

        Raises:
            EnvoiTraceError: The run could not begin; of the class that it was there.
        """
        if self.outcome is not None:
            return self.outcome
        failure = self.failure or Failure(kind="SandboxError", message="the run on Modal told nothing", mend=None)
        kinds = {kind.__name__: kind for kind in _ERRORS}
        raise kinds.get(failure.kind, EnvoiTraceError)(failure.message, mend=failure.mend)


@cache
def _converter() -> Converter:
    from envoi_trace_core.trace.strict import strict_converter

    return strict_converter()
