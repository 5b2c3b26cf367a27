"""Comparisons of single trajectories and of groups."""

from __future__ import annotations

import json

import pytest

from envoi_trace_core.analysis.compare import PARTS_DIFFER, compared, comparison_json, digest, notes_on
from envoi_trace_core.analysis.groups import group_fields, groups_json, groups_of
from envoi_trace_core.errors import UsageError


def compare(*makers):
    return compared([digest(maker.trace) for maker in makers])


def test_where_shares_of_the_paths_were_reached(make):
    maker = make().begin()
    maker.part(tokens=100, cost_usd=0.1)
    maker.evaluated({"sort/small": 5}, tokens=100)
    maker.evaluated({"sort/small": 5, "sort/large": 5, "format/plain": 5})
    (one,) = compare(maker.end())
    assert [at and (at.part, at.calls, at.tokens, at.cost_usd) for at in one.reached] == [
        (2, 2, 200, 0.1), (3, 3, 200, 0.1), (3, 3, 200, 0.1), None,
    ]  # fmt: skip
    assert (one.best.at.part, one.final.counts.passed) == (3, 15)


def test_a_share_is_reached_on_one_commit_and_not_over_several(make):
    maker = make().begin().evaluated({"sort/small": 5}).evaluated({"sort/large": 5})
    (one,) = compare(maker)
    assert [at and at.part for at in one.reached] == [1, None, None, None]


def test_regressions_are_of_tests_and_not_of_builds(make):
    maker = make().begin()
    maker.evaluated({"sort/small": 5, "sort/large": 5})
    maker.evaluated(status="build_failed")
    maker.evaluated({"sort/small": 5, "sort/large": 3, "format/plain": 5})
    maker.evaluated({"sort/small": 5, "sort/large": 5, "format/plain": 4})
    (one,) = compare(maker)
    assert (one.regressions.paths, one.regressions.paths_at_end) == (2, 1)
    assert (one.regressions.tests, one.regressions.failed_builds) == (3, 1)
    assert (one.best.at.part, one.final.at.part) == (4, 4)


def test_a_trajectory_without_evaluations(make):
    maker = make().begin()
    maker.part()
    (one,) = compare(maker)
    assert (one.best, one.final, set(one.reached)) == (None, None, {None})


def test_names_tell_trajectories_apart(make):
    first, second = make("019a-000001").begin(), make("019a-000002").begin()
    assert [each.name for each in compare(first, make("x").begin(agent="opencode"))] == [
        "codex gpt-5.5", "opencode gpt-5.5",
    ]  # fmt: skip
    assert [each.name for each in compare(first, second)] == ["codex gpt-5.5 019a-000001", "codex gpt-5.5 019a-000002"]
    trials = compare(make("a").begin(trial=1), make("b").begin(trial=2))
    assert [each.name for each in trials] == ["codex gpt-5.5 trial 1", "codex gpt-5.5 trial 2"]


def test_what_one_must_know_is_told(make):
    alike = compare(make("a").begin().end(), make("b").begin().end())
    assert notes_on(alike) == []
    other = make("b").begin(agent="opencode", environment_hash="e2", task_hash="t2")
    other.part(cost_usd=1.0)
    notes = notes_on(compare(make("a").begin().end(), other))
    assert notes[0] == PARTS_DIFFER
    assert "2 different environments" in notes[1]
    assert "different tasks" in notes[2]
    assert "no cost is known of codex gpt-5.5" in notes[3]
    assert "not ended yet: opencode" in notes[4]


def test_the_json_has_its_stable_keys(typical):
    data = json.loads(json.dumps(comparison_json(compare(typical))))
    assert list(data) == ["format", "version", "trajectories", "notes"]
    (one,) = data["trajectories"]
    assert one["best"]["passed"] == 11
    assert one["final"]["part"] == 6
    assert [each["share"] for each in one["reached"]] == [0.25, 0.5, 0.75, 1.0]
    assert one["reached"][0]["at"]["part"] == 2
    assert one["regressions"] == {"paths": 1, "paths_at_end": 1, "tests": 5, "failed_builds": 1}


# -- groups ----------------------------------------------------------------------------------------

ALL_PASSED = {"sort/small": 5, "sort/large": 5, "format/plain": 5, "format/wide": 5}


def header(make, reason, *, solved=False, cost_usd=1.0, tokens=100, **fields):
    maker = make(f"t{id(fields)}").begin(**fields)
    maker.evaluated(ALL_PASSED if solved else {}, cost_usd=cost_usd, tokens=tokens)
    if reason:
        maker.end(reason)
    return maker.trace.header


def test_groups_count_what_says_something_of_the_agent(make):
    headers = [
        header(make, "solved", solved=True),
        header(make, "part_limit"),
        header(make, "agent_error"),
        header(make, "infrastructure_error"),
        header(make, "interrupted"),
        header(make, None),
        header(make, "solved", solved=True, agent="opencode", cost_usd=3.0),
    ]
    first, second = groups_of(headers, ("agent",))
    assert [(group.name, group.counted, group.solved) for group in (first, second)] == [
        ("opencode", 1, 1), ("codex", 3, 1),
    ]  # fmt: skip
    assert (second.trajectories, second.in_progress, second.left_out) == (6, 1, 2)
    assert second.solve_rate.value == pytest.approx(1 / 3)
    assert (second.cost_usd, second.cost_per_solve_usd, second.tokens_per_solve) == (3.0, 3.0, 300)
    assert [(each.k, each.tasks) for each in second.pass_at] == [(1, 1), (2, 1), (3, 1)]
    assert second.pass_at[-1].estimate.value == 1.0


def test_an_unknown_cost_gives_no_cost_per_solve(make):
    (group,) = groups_of([header(make, "solved", solved=True), header(make, "stalled", cost_usd=None)], ("model",))
    assert (group.cost_usd, group.cost_known, group.cost_per_solve_usd) == (1.0, 1, None)


def test_tasks_with_other_parameters_are_other_tasks(make):
    headers = [header(make, "stalled", task_params='{"n": 1}'), header(make, "stalled", task_params='{"n": 2}')]
    (group,) = groups_of(headers, ("agent",))
    assert group.tasks == 2
    assert [each.k for each in group.pass_at] == [1]


def test_what_to_group_by(make):
    assert group_fields("agent, model") == ("agent", "model")
    assert group_fields("label:team") == ("label:team",)
    headers = [header(make, "stalled", labels={"team": "a"}), header(make, "stalled", model=None)]
    assert sorted(group.name for group in groups_of(headers, ("label:team", "model"))) == [
        "(no label:team) (no model)",
        "a gpt-5.5",
    ]
    for word in ("modle", "label:", ""):
        with pytest.raises(UsageError, match="nothing to group by"):
            group_fields(word)
    data = json.loads(json.dumps(groups_json(groups_of(headers, ("agent",)), ("agent",))))
    assert data["groups"][0]["solve_rate"]["value"] == 0
    assert data["by"] == ["agent"]
