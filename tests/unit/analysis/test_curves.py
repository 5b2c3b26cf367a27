"""Curves: what held when, and what is a mark and no zero."""

from __future__ import annotations

import json

import pytest

from envoi_trace_core.analysis.curves import progress_of, suite_depth, suite_of
from envoi_trace_core.analysis.graph_data import graph_data_bytes


def test_a_failed_evaluation_is_a_mark_and_no_point(typical):
    progress = progress_of(typical.trace)
    assert [(point.at.part, point.counts.passed) for point in progress.points] == [(2, 7), (5, 11), (6, 8)]
    assert [(point.at.part, point.status) for point in progress.failures] == [(3, "build_failed"), (7, "error")]
    assert progress.failures[0].error == "make: Error 1"
    held = progress.held_at(4)
    assert held is not None
    assert held.counts.passed == 7
    assert progress.held_at(1) is None


def test_a_build_that_passed_nothing_is_a_zero(make):
    progress = progress_of(make().begin().evaluated({}).end().trace)
    assert [point.counts.passed for point in progress.points] == [0]
    assert progress.failures == ()


def test_suites_and_paths(typical):
    progress = progress_of(typical.trace)
    assert progress.suite_totals == {"sort": 10, "format": 10}
    assert progress.points[1].suites["sort"].passed == 10
    assert progress.points[1].passed_paths == {"sort/small", "sort/large"}
    assert (progress.total_tests, progress.total_paths) == (20, 4)


@pytest.mark.parametrize(
    ("paths", "suites"),
    [
        (["sort/small", "sort/large", "format"], ["sort", "sort", "format"]),
        (["all/sort/small", "all/sort/large", "all/format/x"], ["all/sort", "all/sort", "all/format"]),
        (["all/one", "all/two"], ["all/one", "all/two"]),
        (["all/one/x", "all/one/y"], ["all/one/x", "all/one/y"]),
        (["one"], ["one"]),
        ([], []),
    ],
)
def test_a_suite_is_what_first_tells_test_paths_apart(paths, suites):
    assert [suite_of(path, suite_depth(paths)) for path in paths] == suites


def test_positions_add_up(typical):
    progress = progress_of(typical.trace)
    at = progress.points[1].at
    assert (at.part, at.calls, at.tokens, at.cost_usd, at.elapsed_s) == (5, 4, 250, 0.75, 50.0)
    assert [at.on(axis) for axis in ("parts", "calls", "tokens", "cost", "time")] == [5, 4, 250, 0.75, 50.0]
    assert (progress.end.part, progress.end.elapsed_s, progress.end_reason) == (8, 85.0, "part_limit")


def test_a_sub_agents_session_is_no_restart(make):
    maker = make().begin()
    maker.part()
    maker.part(session_id="sub-agent")
    maker.part()
    maker.begin_session("s2")
    maker.part()
    maker.part()
    progress = progress_of(maker.trace)
    assert [(restart.at.part, restart.session_id) for restart in progress.restarts] == [(4, "s2")]


def test_without_cost_the_cost_is_unknown_and_not_zero(make):
    progress = progress_of(make().begin().evaluated({}).end().trace)
    assert progress.end.cost_usd is None
    assert not progress.has_cost


def test_time_never_goes_back(make):
    maker = make().begin()
    maker.part()
    maker.part(timestamp=maker.trace.trajectory.started_at)
    assert [at.elapsed_s for at in (progress_of(maker.trace).end,)] == [10.0]


def test_an_empty_trace_has_no_curve(make):
    progress = progress_of(make().begin().end("agent_error").trace)
    assert (progress.points, progress.end.part, progress.total_tests) == ((), 0, 0)


def test_graph_data_has_its_stable_keys(typical):
    data = json.loads(graph_data_bytes(typical.trace, progress_of(typical.trace)))
    assert list(data) == [
        "format", "version", "trajectory_id", "agent", "agent_version", "model", "task", "environment", "started_at",
        "end_reason", "end", "total_tests", "total_paths", "suites", "evaluations", "skipped_evaluations",
        "checkpoints", "session_restarts",
    ]  # fmt: skip
    assert (data["format"], data["version"]) == ("envoi-trace.graph", 1)
    assert data["suites"] == [{"suite": "sort", "total": 10}, {"suite": "format", "total": 10}]
    assert [evaluation["status"] for evaluation in data["evaluations"]] == [
        "completed", "build_failed", "completed", "completed", "error",
    ]  # fmt: skip
    first = data["evaluations"][0]
    assert list(first) == [
        "part", "elapsed_s", "calls", "tokens", "cost_usd", "commit", "status", "passed", "failed", "total",
        "passed_paths", "suites", "error",
    ]  # fmt: skip
    assert first["suites"]["sort"] == {"passed": 7, "total": 10}
    assert [mark["part"] for mark in data["checkpoints"]] == [2, 3, 5, 6, 7]
    assert [mark["part"] for mark in data["session_restarts"]] == [5]
