"""A part and what belongs to it: the rows of a trace, as values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import attrs

PartType = Literal["reasoning", "text", "tool", "tool_use", "tool_result", "patch"]
PART_TYPES: tuple[PartType, ...] = ("reasoning", "text", "tool", "tool_use", "tool_result", "patch")

EvaluationStatus = Literal["completed", "build_failed", "error", "skipped"]


@attrs.frozen(kw_only=True)
class TokenUsage:
    """Tokens of one model response, or a sum of them."""

    input: int = 0
    cached_input: int = 0
    """The share of `input` that came from the provider's cache."""
    output: int = 0
    reasoning: int = 0
    """The share of `output` that was reasoning."""
    total: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """The sum, field by field."""
        return TokenUsage(
            input=self.input + other.input,
            cached_input=self.cached_input + other.cached_input,
            output=self.output + other.output,
            reasoning=self.reasoning + other.reasoning,
            total=self.total + other.total,
        )


@attrs.frozen(kw_only=True)
class ChangedFile:
    """One file that a checkpoint changed."""

    path: str
    """Relative to the workspace; bytes that are not UTF-8 stand as surrogate escapes are shown: `\\xNN`."""
    status: Literal["added", "modified", "deleted", "renamed", "type_changed"]
    additions: int | None
    """Lines; None for a binary file."""
    deletions: int | None


@attrs.frozen(kw_only=True)
class RepoCheckpoint:
    """The commit that a part made, because it changed files."""

    commit_before: str
    commit_after: str
    changed_files: tuple[ChangedFile, ...] = ()
    skipped_files: tuple[str, ...] = ()
    """Files above the size limit, which the commit does not hold."""


@attrs.frozen(kw_only=True)
class TestCounts:
    """How many tests passed and failed: `total == passed + failed`."""

    __test__ = False  # pytest: not a test class

    passed: int = 0
    failed: int = 0
    total: int = 0

    def __add__(self, other: TestCounts) -> TestCounts:
        """The sum, field by field."""
        return TestCounts(
            passed=self.passed + other.passed, failed=self.failed + other.failed, total=self.total + other.total
        )

    @property
    def all_passed(self) -> bool:
        """Whether there was a test and none failed."""
        return self.total > 0 and self.passed == self.total


@attrs.frozen(kw_only=True)
class PathResult:
    """What one test path of the environment gave on one commit."""

    path: str
    """The path of a leaf in the environment's schema; its first segment is its suite."""
    counts: TestCounts
    error: str | None = None


@attrs.frozen(kw_only=True)
class EnvoiCall:
    """One call of `run_tests` by the agent, recorded by the harness, not by the agent."""

    call_id: str
    """Made by the harness; unique within the trajectory."""
    path: str
    """As the agent gave it; empty for all tests."""
    commit: str | None
    """The workspace that was tested."""
    timestamp: datetime
    duration_ms: int
    status_code: int
    """As HTTP has it: 200 ran, 404 no such path, 422 the submission's build failed, 500 the harness failed."""
    error: str | None
    counts: TestCounts
    results: tuple[PathResult, ...] = ()


@attrs.frozen(kw_only=True)
class Evaluation:
    """The environment's tests, run on one commit."""

    commit: str
    status: EvaluationStatus
    duration_ms: int = 0
    counts: TestCounts = TestCounts()
    results: tuple[PathResult, ...] = ()
    """One entry a test path of the schema, in the schema's order."""
    error: str | None = None


@attrs.frozen(kw_only=True)
class Part:
    """The smallest observable action of an agent: one row of `trace.parquet`.

    What arrives later and belongs to a part (its usage, its evaluation) is a fact of its own in the
    journal and stands in the row only; see `envoi_trace_core.domain.facts`.
    """

    part: int
    """1-based, without a gap."""
    turn: int
    session_id: str
    timestamp: datetime
    duration_ms: int | None
    event_index: int
    """The native event that completed this part: its 1-based number in `events.jsonl`."""
    draft_ordinal: int = 0
    """Which of the drafts that this event gave: 0 for the first. With `event_index` it names a draft for good."""

    part_type: PartType
    role: str = "assistant"
    item_type: str = ""
    """What the agent itself called it."""
    summary: str = ""
    content: str | None = None
    tool_name: str | None = None
    tool_status: str | None = None
    tool_input: str | None = None
    """JSON text."""
    tool_output: str | None = None
    tool_error: str | None = None
    tool_exit_code: int | None = None

    git_commit: str | None
    """The workspace right after this part; the same as before when the part changed nothing."""
    repo_checkpoint: RepoCheckpoint | None = None
    """None when the part changed nothing."""
    patch: str | None = None
    """Unified diff of the checkpoint (git's, with renames; may be cut, and then says so)."""
    envoi_calls: tuple[EnvoiCall, ...] = ()


SessionEndReason = Literal[
    "solved",
    "part_limit",
    "token_limit",
    "cost_limit",
    "turn_limit",
    "stalled",
    "timeout",
    "agent_error",
    "envoi_error",
    "infrastructure_error",
    "interrupted",
]


@attrs.frozen(kw_only=True)
class Trajectory:
    """What is true of a whole trajectory: stands in every row."""

    trajectory_id: str
    agent: str
    agent_version: str | None = None
    model: str | None = None
    sandbox: str
    task: str
    environment: str
    task_params: str = "{}"
    """JSON text."""
    started_at: datetime
    envoi_trace_version: str
    forked_from: str | None = None
    forked_at_part: int | None = None
    batch: str | None = None
    trial: int | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict)
    task_hash: str | None = None
    environment_hash: str | None = None
