"""The rows of a trace and its summary, as values."""

from __future__ import annotations

from datetime import datetime

import attrs

from envoi_trace_core.domain.facts import TrajectoryEnded
from envoi_trace_core.domain.parts import Evaluation, Part, TokenUsage, Trajectory


@attrs.frozen(kw_only=True)
class TestingState:
    """How the tests stood right after a part: by what it, or a part before it, called or committed."""

    __test__ = False  # pytest: not a test class

    solved_paths: int = 0
    """Test paths whose newest result passes."""
    total_paths: int = 0
    latest_path: str | None = None
    """Of the newest `run_tests` call; empty for all tests. None before the first call."""
    latest_passed: int | None = None
    latest_total: int | None = None


@attrs.frozen(kw_only=True)
class RecordedPart:
    """A part with what was recorded of it later: what its row holds beside the testing state."""

    part: Part
    turn_prompt: str | None = None
    """On the first row of a turn."""
    token_usage: TokenUsage | None = None
    cost_usd: float | None = None
    evaluation: Evaluation | None = None
    """Of the commit that this part made."""


@attrs.frozen(kw_only=True)
class TraceRow:
    """One row of a trace."""

    part: Part
    turn_prompt: str | None = None
    token_usage: TokenUsage | None = None
    cost_usd: float | None = None
    evaluation: Evaluation | None = None
    testing_state: TestingState = TestingState()

    @property
    def recorded(self) -> RecordedPart:
        """The row without its testing state."""
        return RecordedPart(
            part=self.part,
            turn_prompt=self.turn_prompt,
            token_usage=self.token_usage,
            cost_usd=self.cost_usd,
            evaluation=self.evaluation,
        )


@attrs.frozen(kw_only=True)
class TraceSummary:
    """A whole trajectory in a few numbers: stands in the footer, so that a listing reads no row."""

    facts: int = 0
    """How many facts it was made of: of two traces of one trajectory, the one with more is newer."""
    parts: int = 0
    turns: int = 0
    session_ids: tuple[str, ...] = ()
    token_usage: TokenUsage = TokenUsage()
    cost_usd: float | None = None
    """None when no cost is known."""
    initial_commit: str | None = None
    test_paths: tuple[str, ...] = ()
    solved_paths: int = 0
    """After the last part: paths whose newest result passes."""
    best_share: float = 0.0
    """The best share of passed tests on any commit, 0 to 1."""
    solved_commit: str | None = None
    """The first commit on which every path passed."""
    unparsed_events: int = 0
    last_event_index: int = 0
    last_at: datetime | None = None
    """When the newest part was complete."""

    @property
    def total_paths(self) -> int:
        """Test paths of the environment."""
        return len(self.test_paths)


@attrs.frozen(kw_only=True)
class Snapshot:
    """A trace at one moment, immutable: what is written to `trace.parquet`."""

    trajectory: Trajectory
    summary: TraceSummary
    end: TrajectoryEnded | None
    parts: tuple[RecordedPart, ...]
    testing_states: tuple[TestingState, ...]
    """One a part."""
