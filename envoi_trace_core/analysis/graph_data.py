"""`graph_data.json`: the numbers of a trajectory's charts, for other tools to draw.

Keys are stable within a `version`; a new minor feature only adds keys.

    format              "envoi-trace.graph"
    version             1
    trajectory_id, agent, agent_version, model, task, environment, started_at
    end_reason          a reason of `session_end_reason`, or "in progress"
    end                 POSITION after the last part
    total_tests         the most tests that any evaluation ran
    total_paths         test paths of the environment
    suites              [{suite, total}], in the environment's order; a suite is the first segment of its test paths,
                        and as many more as all test paths begin with alike
    evaluations         [{POSITION, commit, status, passed, failed, total, passed_paths, suites, error}]
                        status: completed, build_failed or error; only the first has counts that mean anything;
                        suites: {suite: {passed, total}}
    skipped_evaluations how many commits were left untested
    checkpoints         [{POSITION, commit}]
    session_restarts    [{POSITION, session_id}]

POSITION stands for `part`, `elapsed_s` (since `started_at`), `calls` (tool calls), `tokens` and `cost_usd` (null when
unknown): the sums up to and with that part.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from envoi_trace_core.analysis.curves import Point, Progress
from envoi_trace_core.trace.reader import Trace

FORMAT = "envoi-trace.graph"
VERSION = 1


def graph_data(trace: Trace, progress: Progress) -> dict[str, Any]:
    """What stands in `graph_data.json`."""
    trajectory = trace.trajectory
    return {
        "format": FORMAT,
        "version": VERSION,
        "trajectory_id": trajectory.trajectory_id,
        "agent": trajectory.agent,
        "agent_version": trajectory.agent_version,
        "model": trajectory.model,
        "task": trajectory.task,
        "environment": trajectory.environment,
        "started_at": trajectory.started_at.isoformat(),
        "end_reason": progress.end_reason,
        "end": attrs.asdict(progress.end),
        "total_tests": progress.total_tests,
        "total_paths": progress.total_paths,
        "suites": [{"suite": suite, "total": total} for suite, total in progress.suite_totals.items()],
        "evaluations": [_evaluation(point) for point in progress.evaluations],
        "skipped_evaluations": progress.skipped,
        "checkpoints": [{**attrs.asdict(mark.at), "commit": mark.commit} for mark in progress.checkpoints],
        "session_restarts": [{**attrs.asdict(mark.at), "session_id": mark.session_id} for mark in progress.restarts],
    }


def _evaluation(point: Point) -> dict[str, Any]:
    return {
        **attrs.asdict(point.at),
        "commit": point.commit,
        "status": point.status,
        **attrs.asdict(point.counts),
        "passed_paths": len(point.passed_paths),
        "suites": {suite: {"passed": counts.passed, "total": counts.total} for suite, counts in point.suites.items()},
        "error": point.error,
    }


def graph_data_bytes(trace: Trace, progress: Progress) -> bytes:
    """The file."""
    return json.dumps(graph_data(trace, progress), indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
