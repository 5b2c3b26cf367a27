"""The journal's facts. `trace.parquet` is their fold; nothing is ever rewritten."""

from __future__ import annotations

from datetime import datetime

import attrs

from envoi_trace_core.domain.parts import (
    EnvoiCall,
    Evaluation,
    Part,
    SessionEndReason,
    TokenUsage,
    Trajectory,
)


@attrs.frozen(kw_only=True)
class TrajectoryBegun:
    """The first fact of every journal; a resume that changes a trajectory-level field writes another."""

    trajectory: Trajectory
    test_paths: tuple[str, ...] = ()
    """The leaf paths of the environment's schema that count for `solved`, hidden ones too."""
    initial_commit: str | None = None
    """The workspace before the first part."""


@attrs.frozen(kw_only=True)
class SessionBegun:
    """The agent's own conversation began, or goes on after a restart of the orchestrator."""

    session_id: str
    at: datetime
    agent_version: str | None = None


@attrs.frozen(kw_only=True)
class TurnBegun:
    """A prompt was handed to the agent."""

    turn: int
    session_id: str
    prompt: str
    at: datetime
    event_index: int = 0
    """Of the newest native event before: all up to it belong to earlier turns."""


@attrs.frozen(kw_only=True)
class TurnEnded:
    """The agent handed back, or was interrupted."""

    turn: int
    at: datetime
    interrupted: bool = False
    event_index: int = 0
    """Of the newest native event when the agent handed back: all up to it count. 0 for an interrupted turn."""


@attrs.frozen(kw_only=True)
class PartRecorded:
    """A part is complete, with its commit and its test calls."""

    part: Part


@attrs.frozen(kw_only=True)
class UsageRecorded:
    """Token usage or cost of a part that was recorded before; several add up."""

    part: int
    usage: TokenUsage | None = None
    cost_usd: float | None = None
    event_index: int
    draft_ordinal: int = 0


@attrs.frozen(kw_only=True)
class CallRecorded:
    """A test call ended. The part it belongs to follows, and repeats it in `envoi_calls`."""

    call: EnvoiCall
    answer: str | None = None
    """What the agent is told: the same again, should it have to ask again. None when that is made from `call`."""


@attrs.frozen(kw_only=True)
class CallsClaimed:
    """Test calls that no part of their own followed (a call from a shell, an interrupt): they go to `part`."""

    part: int
    """0: to none, for the workspace that they tested was lost before a part had it."""
    call_ids: tuple[str, ...]


@attrs.frozen(kw_only=True)
class EvaluationRecorded:
    """The tests ran on a commit; the result goes to the part that made the commit."""

    evaluation: Evaluation


@attrs.frozen(kw_only=True)
class EventsUnparsed:
    """Native events of which no parser could make anything."""

    event_index: int
    draft_ordinal: int = 0
    reason: str


@attrs.frozen(kw_only=True)
class TrajectoryEnded:
    """The run ended; a later `SessionBegun` takes this back."""

    reason: SessionEndReason
    message: str | None = None
    """What failed, in its own words."""
    total_parts: int
    total_turns: int
    final_commit: str | None
    at: datetime
    total_events: int = 0
    """Native events in the log by then: a resume records nothing more of them."""


Fact = (
    TrajectoryBegun
    | SessionBegun
    | TurnBegun
    | TurnEnded
    | PartRecorded
    | UsageRecorded
    | CallRecorded
    | CallsClaimed
    | EvaluationRecorded
    | EventsUnparsed
    | TrajectoryEnded
)
