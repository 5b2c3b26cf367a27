"""How many tests passed as a trajectory went on: by part, time, tool calls, tokens and cost.

Evaluations are sparse: only a part that made a commit has one. Between two of them the last result holds. An
evaluation that failed (the build, or the harness) says nothing of the tests: it is kept apart, never as a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import attrs

from envoi_trace_core.domain.parts import Evaluation, EvaluationStatus, Part, PathResult, TestCounts
from envoi_trace_core.domain.solving import has_passed
from envoi_trace_core.trace.reader import Trace
from envoi_trace_core.trace.rows import TraceRow

Axis = Literal["parts", "calls", "tokens", "cost", "time"]
AXES: tuple[Axis, ...] = ("parts", "calls", "tokens", "cost", "time")

IN_PROGRESS = "in progress"
_FAILED: tuple[EvaluationStatus, ...] = ("build_failed", "error")


@attrs.frozen(kw_only=True)
class Position:
    """How far a trajectory was right after a part."""

    part: int
    elapsed_s: float
    """Since the trajectory began, pauses between a run and its resume included. Never goes back."""
    calls: int
    """Tool calls so far."""
    tokens: int
    cost_usd: float | None
    """None when no cost is known of any part."""

    def on(self, axis: Axis) -> float | None:
        """The position on one axis; None where it is not known."""
        match axis:
            case "parts":
                return self.part
            case "calls":
                return self.calls
            case "tokens":
                return self.tokens
            case "cost":
                return self.cost_usd
            case "time":
                return self.elapsed_s


@attrs.frozen(kw_only=True)
class Point:
    """The evaluation of one commit, at the part that made it."""

    at: Position
    commit: str
    status: EvaluationStatus
    counts: TestCounts
    suites: Mapping[str, TestCounts]
    """By the first segment of the test paths; by more where all begin alike."""
    results: tuple[PathResult, ...]
    """One entry a test path."""
    passed_paths: frozenset[str]
    """Test paths of the environment of which every test passed."""
    error: str | None = None


@attrs.frozen(kw_only=True)
class Checkpoint:
    """A part that changed files."""

    at: Position
    commit: str


@attrs.frozen(kw_only=True)
class SessionRestart:
    """A part that is the first of another conversation of the agent."""

    at: Position
    session_id: str


@attrs.frozen(kw_only=True)
class Progress:
    """All that the charts of one trajectory show."""

    points: tuple[Point, ...]
    """Evaluations that ran to their end, in order."""
    failures: tuple[Point, ...]
    """Evaluations whose build or harness failed, in order."""
    skipped: int
    """Commits that were left untested."""
    checkpoints: tuple[Checkpoint, ...]
    restarts: tuple[SessionRestart, ...]
    end: Position
    """After the last part; its time is the end's, if there was one."""
    end_reason: str
    """`in progress` while there is none."""
    total_tests: int
    """The most tests that any evaluation ran."""
    total_paths: int
    suite_totals: Mapping[str, int]
    """The most tests that any evaluation ran of each suite; the order is the environment's."""

    @property
    def evaluations(self) -> tuple[Point, ...]:
        """Those that ran and those that failed, in order."""
        return tuple(sorted((*self.points, *self.failures), key=lambda point: point.at.part))

    @property
    def has_cost(self) -> bool:
        """Whether the cost of any part is known."""
        return self.end.cost_usd is not None

    def held_at(self, part: int) -> Point | None:
        """The newest evaluation that ran, of a commit made at or before a part."""
        held = None
        for point in self.points:
            if point.at.part > part:
                break
            held = point
        return held


def progress_of(trace: Trace) -> Progress:
    """Read a trajectory's curves out of its trace."""
    test_paths = frozenset(trace.summary.test_paths)
    positions = list(_positions(trace))
    depth = suite_depth(test_paths)
    points: list[Point] = []
    failures: list[Point] = []
    checkpoints: list[Checkpoint] = []
    skipped = 0
    for row, at in zip(trace.rows, positions, strict=True):
        if row.part.repo_checkpoint is not None:
            checkpoints.append(Checkpoint(at=at, commit=row.part.repo_checkpoint.commit_after))
        if row.evaluation is None:
            continue
        if row.evaluation.status == "completed":
            points.append(_point(row.evaluation, at, test_paths, depth))
        elif row.evaluation.status in _FAILED:
            failures.append(_point(row.evaluation, at, test_paths, depth))
        else:
            skipped += 1
    return Progress(
        points=tuple(points),
        failures=tuple(failures),
        skipped=skipped,
        checkpoints=tuple(checkpoints),
        restarts=tuple(_restarts(trace, positions)),
        end=_end(trace, positions),
        end_reason=trace.end.reason if trace.end is not None else IN_PROGRESS,
        total_tests=max((point.counts.total for point in points), default=0),
        total_paths=trace.summary.total_paths,
        suite_totals=_suite_totals(points),
    )


def is_tool_call(part: Part) -> bool:
    """Whether a part is a call of a tool; a `tool_result` belongs to the `tool_use` before it."""
    return part.part_type in ("tool", "tool_use") or (part.part_type == "patch" and part.tool_name is not None)


def suite_of(path: str, depth: int = 1) -> str:
    """The suite that a test path belongs to: its first segments."""
    return "/".join(path.split("/")[:depth])


def suite_depth(paths: Iterable[str]) -> int:
    """How many segments of the test paths name their suite: one, or as many more as all of them begin alike."""
    segments = [path.split("/") for path in paths]
    shortest = min(map(len, segments), default=1)
    for depth in range(1, shortest):
        if len({tuple(path[:depth]) for path in segments}) > 1:
            return depth
    return shortest


def _positions(trace: Trace) -> Iterable[Position]:
    began_at = trace.trajectory.started_at
    has_cost = any(known_cost(row) is not None for row in trace.rows)
    elapsed_s, calls, tokens, cost_usd = 0.0, 0, 0, 0.0
    for row in trace.rows:
        elapsed_s = max(elapsed_s, (row.part.timestamp - began_at).total_seconds())
        calls += is_tool_call(row.part)
        tokens += row.token_usage.total if row.token_usage is not None else 0
        cost_usd += known_cost(row) or 0.0
        yield Position(
            part=row.part.part,
            elapsed_s=elapsed_s,
            calls=calls,
            tokens=tokens,
            cost_usd=cost_usd if has_cost else None,
        )


def _point(evaluation: Evaluation, at: Position, test_paths: frozenset[str], depth: int) -> Point:
    suites: dict[str, TestCounts] = {}
    for result in evaluation.results:
        suite = suite_of(result.path, depth)
        suites[suite] = suites.get(suite, TestCounts()) + result.counts
    return Point(
        at=at,
        commit=evaluation.commit,
        status=evaluation.status,
        counts=evaluation.counts,
        suites=suites,
        results=evaluation.results,
        passed_paths=frozenset(
            result.path for result in evaluation.results if result.path in test_paths and has_passed(result)
        ),
        error=evaluation.error,
    )


def _suite_totals(points: Iterable[Point]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for point in points:
        for suite, counts in point.suites.items():
            totals[suite] = max(totals.get(suite, 0), counts.total)
    return totals


def _restarts(trace: Trace, positions: Sequence[Position]) -> Iterable[SessionRestart]:
    """Sessions of sub-agents are none of the trajectory's own: only those that the summary names are."""
    own = frozenset(trace.summary.session_ids)
    seen: set[str] = set()
    for row, at in zip(trace.rows, positions, strict=True):
        session_id = row.part.session_id
        if session_id in seen or (own and session_id not in own):
            continue
        if seen:
            yield SessionRestart(at=at, session_id=session_id)
        seen.add(session_id)


def _end(trace: Trace, positions: Sequence[Position]) -> Position:
    last = positions[-1] if positions else Position(part=0, elapsed_s=0.0, calls=0, tokens=0, cost_usd=None)
    if trace.end is None:
        return last
    ended_s = (trace.end.at - trace.trajectory.started_at).total_seconds()
    return attrs.evolve(last, elapsed_s=max(last.elapsed_s, ended_s))


def known_cost(row: TraceRow) -> float | None:
    """US dollars; None when it is not known, or no number that could be added."""
    return row.cost_usd if row.cost_usd is not None and math.isfinite(row.cost_usd) else None
