"""Trajectories side by side: how far each came, by what means, and what it broke on the way.

Agents cut their work into parts differently: one makes a part of every thought, another of every file. So parts and
tool calls compare runs of one agent; across agents, tokens, cost and time do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from envoi_trace_core.analysis.curves import Point, Position, Progress, progress_of
from envoi_trace_core.domain.parts import Trajectory
from envoi_trace_core.trace.reader import Trace

MILESTONES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the environment's test paths."""

PARTS_DIFFER = (
    "agents cut their work into parts differently: across agents, compare tokens, cost or time "
    "(--axis tokens, cost or time)"
)


@attrs.frozen(kw_only=True)
class Regressions:
    """What passed on one commit and failed on a later one. A build that fails is none: it is counted by itself."""

    paths: int
    """Test paths that passed and later failed, each counted once."""
    paths_at_end: int
    """Those of them that fail on the last evaluated commit."""
    tests: int
    """Tests lost between an evaluation and the next one, added up over all test paths."""
    failed_builds: int


@attrs.frozen(kw_only=True)
class Compared:
    """One trajectory of a comparison."""

    name: str
    """Tells it from the others."""
    trajectory: Trajectory
    progress: Progress
    reached: tuple[Position | None, ...]
    """Where each of `MILESTONES` was reached first, on one commit; None when it never was."""
    best: Point | None
    """The first with the most passed tests."""
    final: Point | None
    """The last evaluated commit."""
    regressions: Regressions


def compared(traces: Sequence[tuple[Trajectory, Progress]]) -> list[Compared]:
    """Compare trajectories, in their order."""
    names = _names([trajectory for trajectory, _ in traces])
    return [_compared(name, *trace) for name, trace in zip(names, traces, strict=True)]


def digest(trace: Trace) -> tuple[Trajectory, Progress]:
    """What a comparison keeps of a trace, which may be large."""
    return trace.trajectory, progress_of(trace)


def notes_on(trajectories: Sequence[Compared]) -> list[str]:
    """What whoever reads the comparison must know."""
    notes = []
    if len({(each.trajectory.agent, each.trajectory.agent_version) for each in trajectories}) > 1:
        notes.append(PARTS_DIFFER)
    environments = {(each.trajectory.environment, each.trajectory.environment_hash) for each in trajectories}
    if len(environments) > 1:
        notes.append(f"the trajectories were tested in {len(environments)} different environments")
    if len({(each.trajectory.task, each.trajectory.task_hash) for each in trajectories}) > 1:
        notes.append("the trajectories worked on different tasks")
    unknown = [each.name for each in trajectories if not each.progress.has_cost]
    if unknown and len(unknown) < len(trajectories):
        notes.append(f"no cost is known of {', '.join(unknown)}")
    going = [each.name for each in trajectories if each.progress.end_reason == "in progress"]
    if going:
        notes.append(f"not ended yet: {', '.join(going)}")
    return notes


def comparison_json(trajectories: Sequence[Compared]) -> dict[str, Any]:
    """The comparison for other programs; keys are stable."""
    return {
        "format": "envoi-trace.compare",
        "version": 1,
        "trajectories": [_as_json(each) for each in trajectories],
        "notes": notes_on(trajectories),
    }


def _as_json(each: Compared) -> dict[str, Any]:
    trajectory, progress = each.trajectory, each.progress
    return {
        "trajectory_id": trajectory.trajectory_id,
        "name": each.name,
        "agent": trajectory.agent,
        "agent_version": trajectory.agent_version,
        "model": trajectory.model,
        "task": trajectory.task,
        "environment": trajectory.environment,
        "environment_hash": trajectory.environment_hash,
        "end_reason": progress.end_reason,
        "end": attrs.asdict(progress.end),
        "total_tests": progress.total_tests,
        "total_paths": progress.total_paths,
        "best": _point_json(each.best),
        "final": _point_json(each.final),
        "reached": [
            {"share": share, "at": attrs.asdict(at) if at is not None else None}
            for share, at in zip(MILESTONES, each.reached, strict=True)
        ],
        "regressions": attrs.asdict(each.regressions),
    }


def _point_json(point: Point | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        **attrs.asdict(point.at),
        "commit": point.commit,
        "passed": point.counts.passed,
        "total": point.counts.total,
        "passed_paths": len(point.passed_paths),
    }


def _compared(name: str, trajectory: Trajectory, progress: Progress) -> Compared:
    points = progress.points
    return Compared(
        name=name,
        trajectory=trajectory,
        progress=progress,
        reached=tuple(reached_at(progress, share) for share in MILESTONES),
        best=max(points, key=lambda point: point.counts.passed) if points else None,
        final=points[-1] if points else None,
        regressions=regressions_of(progress),
    )


def reached_at(progress: Progress, share: float) -> Position | None:
    """Where a share of the test paths first passed on one commit."""
    if not progress.total_paths:
        return None
    needed = math.ceil(share * progress.total_paths)
    return next((point.at for point in progress.points if len(point.passed_paths) >= needed), None)


def regressions_of(progress: Progress) -> Regressions:
    """What was lost on the way."""
    passed_once: set[str] = set()
    lost: set[str] = set()
    failing: set[str] = set()
    tests = 0
    before: dict[str, int] = {}
    for point in progress.points:
        ran = {result.path for result in point.results}
        failing = (failing - ran) | ((passed_once & ran) - point.passed_paths)
        lost |= failing
        passed_once |= point.passed_paths
        now = {result.path: result.counts.passed for result in point.results}
        tests += sum(max(0, before[path] - count) for path, count in now.items() if path in before)
        before |= now
    return Regressions(
        paths=len(lost),
        paths_at_end=len(failing),
        tests=tests,
        failed_builds=sum(point.status == "build_failed" for point in progress.failures),
    )


def _names(trajectories: Sequence[Trajectory]) -> list[str]:
    """As short as tells them apart: agent and model, then what differs, then the end of the id."""
    names = [" ".join(filter(None, (each.agent, each.model))) for each in trajectories]
    for field in ("agent_version", "task", "environment", "batch", "trial"):
        values = [getattr(each, field) for each in trajectories]
        if len(set(names)) < len(names) and len(set(values)) > 1:
            word = "trial " if field == "trial" else ""
            names = [
                f"{name} {word}{value}" if value is not None else name
                for name, value in zip(names, values, strict=True)
            ]
    counts = Counter(names)
    # The head of a UUIDv7 is the time: ids of one batch begin alike.
    return [
        f"{name} {each.trajectory_id if len(each.trajectory_id) <= 12 else '…' + each.trajectory_id[-6:]}"
        if counts[name] > 1
        else name
        for name, each in zip(names, trajectories, strict=True)
    ]
