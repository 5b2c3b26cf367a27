"""How a run ended, for the program and for the shell."""

from __future__ import annotations

from datetime import datetime

import attrs

from envoi_trace_core.domain.parts import SessionEndReason, TokenUsage
from envoi_trace_core.errors import AgentError, EnvoiTraceError, HarnessError, InterruptedRunError
from envoi_trace_core.trace.fold import TraceState

EXIT_STATUS: dict[SessionEndReason, int] = {
    "agent_error": 3,
    "envoi_error": 4,
    "infrastructure_error": 5,
    "interrupted": 130,
}
"""Of the reasons that are no end by itself; all others give 0."""

EXIT_BELOW_FAIL_UNDER = 6
EXIT_UNSAVED = 1


@attrs.frozen(kw_only=True)
class RunEnd:
    """Why one attempt at a trajectory ended."""

    reason: SessionEndReason
    message: str | None = None
    mend: str | None = None
    exit_status: int | None = None
    """When it is not the reason's own: 143 for SIGTERM."""
    worth_restarting: bool = False
    """Whether the launcher may try again by itself."""
    moves: bool = False
    """Whether it only leaves sandboxes that are near their end."""


@attrs.frozen(kw_only=True)
class RunOutcome:
    """What `envoi-trace --json` prints of a run, and what its exit status follows from."""

    trajectory_id: str
    reason: SessionEndReason
    message: str | None
    parts: int
    turns: int
    solved_paths: int
    total_paths: int
    final_commit: str | None
    trace_uri: str
    bundle_uri: str
    token_usage: TokenUsage
    cost_usd: float | None
    best_share: float = 0.0
    """The best share of passed tests that any commit reached, 0 to 1."""
    mend: str | None = None
    exit_status: int = 0
    ended_at: datetime | None = None
    """When its trace says that it ended; None when it says nothing of it."""
    worth_restarting: bool = False
    moves: bool = False
    unsaved: tuple[str, ...] = ()
    """Why artifacts could not be uploaded; what is on this machine is whole."""


def end_of(error: EnvoiTraceError) -> RunEnd:
    """What an error that ended an attempt means: an agent's failure is never ours, and ours never the agent's."""
    reason: SessionEndReason
    match error:
        case InterruptedRunError():
            return RunEnd(reason="interrupted", message=error.message, exit_status=error.exit_status)
        case AgentError():
            reason = "agent_error"
        case HarnessError():
            reason = "envoi_error"
        case _:
            reason = "infrastructure_error"
    return RunEnd(reason=reason, message=error.message, mend=error.mend, worth_restarting=True)


def taken_over(trajectory_id: str) -> RunEnd:
    """The end of a run that woke up after another one had gone on with its trajectory: it saves nothing."""
    return RunEnd(
        reason="infrastructure_error",
        message=f"another run took over trajectory {trajectory_id} while this one did not answer; it goes on there",
        mend=f"envoi-trace status {trajectory_id}",
    )


def outcome_of(
    state: TraceState, end: RunEnd, trajectory_id: str, trace_uri: str, bundle_uri: str, unsaved: tuple[str, ...]
) -> RunOutcome:
    """What is told of a run that ended so.

    What could not be saved is told too. It makes the exit status of a good end 1; a failure stays the failure it is.
    """
    status = end.exit_status if end.exit_status is not None else EXIT_STATUS.get(end.reason, 0)
    return RunOutcome(
        trajectory_id=trajectory_id,
        reason=end.reason,
        message=end.message,
        parts=state.part_count,
        turns=state.turn_count,
        solved_paths=state.total_paths if state.is_solved else state.solved_paths,
        total_paths=state.total_paths,
        final_commit=state.head,
        trace_uri=trace_uri,
        bundle_uri=bundle_uri,
        token_usage=state.total_usage,
        cost_usd=state.total_cost_usd,
        best_share=state.best_share,
        mend=end.mend,
        exit_status=status or (EXIT_UNSAVED if unsaved else 0),
        ended_at=state.end.at if state.end is not None else None,
        worth_restarting=end.worth_restarting,
        moves=end.moves,
        unsaved=unsaved,
    )
