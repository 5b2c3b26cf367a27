"""Traces that the tests make up, as large as they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from envoi_trace_core.domain.facts import (
    EvaluationRecorded,
    PartRecorded,
    SessionBegun,
    TrajectoryBegun,
    TrajectoryEnded,
    TurnBegun,
    UsageRecorded,
)
from envoi_trace_core.domain.parts import (
    ChangedFile,
    Evaluation,
    EvaluationStatus,
    Part,
    PathResult,
    RepoCheckpoint,
    SessionEndReason,
    TestCounts,
    TokenUsage,
    Trajectory,
)
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.reader import Trace, read_trace

BEGAN_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATHS = ("sort/small", "sort/large", "format/plain", "format/wide")


@attrs.define
class TraceMaker:
    """A trajectory of ten seconds a part, told with as few words as a test needs."""

    trajectory_id: str = "t1"
    paths: tuple[str, ...] = PATHS
    tests_a_path: int = 5
    state: TraceState = attrs.field(factory=TraceState)
    parts: int = 0
    session: str = "s1"

    def begin(self, **fields: object) -> TraceMaker:
        values = {
            "trajectory_id": self.trajectory_id,
            "agent": "codex",
            "model": "gpt-5.5",
            "sandbox": "local",
            "task": "sorting",
            "environment": "sorting",
            "started_at": BEGAN_AT,
            "envoi_trace_version": "0.1.0",
        }
        trajectory = Trajectory(**{**values, **fields})
        self.state.apply(TrajectoryBegun(trajectory=trajectory, test_paths=self.paths, initial_commit="0" * 40))
        self.begin_session("s1")
        self.state.apply(TurnBegun(turn=1, session_id="s1", prompt="Sort the lines.", at=BEGAN_AT))
        return self

    def begin_session(self, session_id: str) -> TraceMaker:
        self.session = session_id
        self.state.apply(SessionBegun(session_id=session_id, at=BEGAN_AT))
        return self

    def part(self, *, commits: bool = False, tokens: int = 0, cost_usd: float | None = None, **fields: object) -> str:
        """Add a part; gives its commit."""
        self.parts += 1
        before, after = f"{self.parts - 1:040x}", f"{self.parts:040x}"
        checkpoint = RepoCheckpoint(
            commit_before=before,
            commit_after=after,
            changed_files=(ChangedFile(path="a.py", status="modified", additions=2, deletions=1),),
        )
        values = {
            "part": self.parts,
            "turn": 1,
            "session_id": self.session,
            "timestamp": BEGAN_AT + timedelta(seconds=10 * self.parts),
            "duration_ms": 1200,
            "event_index": self.parts,
            "part_type": "tool",
            "tool_name": "shell",
            "tool_input": '{"command": "ls"}',
            "tool_output": f"output of part {self.parts}",
            "git_commit": after if commits else before,
            "repo_checkpoint": checkpoint if commits else None,
            "patch": "--- a/a.py\n+++ b/a.py\n@@ -1 +1,2 @@\n-old\n+new\n+newer\n" if commits else None,
        }
        self.state.apply(PartRecorded(part=Part(**{**values, **fields})))
        usage = TokenUsage(input=tokens, total=tokens) if tokens else None
        if usage is not None or cost_usd is not None:
            self.state.apply(UsageRecorded(part=self.parts, usage=usage, cost_usd=cost_usd, event_index=self.parts))
        return after

    def evaluated(
        self,
        passed: Mapping[str, int] | None = None,
        *,
        status: EvaluationStatus = "completed",
        error: str | None = None,
        **fields: object,
    ) -> TraceMaker:
        """Add a part that commits, and its evaluation: passed tests of paths; the others pass none."""
        commit = self.part(commits=True, **fields)
        results = tuple(
            PathResult(
                path=path,
                counts=TestCounts(
                    passed=(passed or {}).get(path, 0),
                    failed=self.tests_a_path - (passed or {}).get(path, 0),
                    total=self.tests_a_path,
                ),
            )
            for path in self.paths
        )
        if status != "completed":
            results = ()
        counts = sum((result.counts for result in results), TestCounts())
        evaluation = Evaluation(commit=commit, status=status, counts=counts, results=results, error=error)
        self.state.apply(EvaluationRecorded(evaluation=evaluation))
        return self

    def end(self, reason: SessionEndReason = "part_limit", message: str | None = None) -> TraceMaker:
        self.state.apply(
            TrajectoryEnded(
                reason=reason,
                message=message,
                total_parts=self.parts,
                total_turns=1,
                final_commit=self.state.head,
                at=BEGAN_AT + timedelta(seconds=10 * self.parts + 5),
            )
        )
        return self

    @property
    def data(self) -> bytes:
        return encode_trace(self.state.snapshot())

    @property
    def trace(self) -> Trace:
        """As a reader gets it: through the file."""
        return read_trace(self.data)


@pytest.fixture
def make() -> Callable[..., TraceMaker]:
    return TraceMaker


@pytest.fixture
def typical() -> TraceMaker:
    """Two sessions, a build that failed, a drop, and a rise."""
    maker = TraceMaker().begin()
    maker.part(tokens=100, cost_usd=0.5)
    maker.evaluated({"sort/small": 5, "sort/large": 2}, tokens=100)
    maker.evaluated(status="build_failed", error="make: Error 1")
    maker.part(part_type="reasoning", tool_name=None, content="Hm.", tokens=50, cost_usd=0.25)
    maker.begin_session("s2")
    maker.evaluated({"sort/small": 5, "sort/large": 5, "format/plain": 1})
    maker.evaluated({"sort/small": 5, "format/plain": 3})
    maker.evaluated(status="error", error="the runtime died")
    maker.part()
    return maker.end()
