"""The fold of facts: what each row says follows from the facts alone."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envoi_trace_core.domain.facts import (
    CallRecorded,
    CallsClaimed,
    EvaluationRecorded,
    PartRecorded,
    TrajectoryBegun,
    TrajectoryEnded,
    TurnEnded,
)
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_core.errors import TraceFormatError
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.rows import TestingState

AT = datetime(2026, 5, 6, tzinfo=UTC)


def ended(reason="solved"):
    return TrajectoryEnded(reason=reason, total_parts=1, total_turns=1, final_commit="c1", at=AT)


def solved(state):
    return [row.testing_state.solved_paths for row in state.rows]


def test_rows_hold_parts_usage_cost_evaluation_and_prompt(make):
    evaluation = make.evaluation("c1", {"format": True})
    state = TraceState.of(
        [
            make.begun(), make.session(), make.turn(1, "Sort."), make.part(1, commit="c1"), make.part(2), evaluation,
            make.usage(1, 10, 0.5), make.usage(1, 5, 0.25), make.turn(2, "Go on."), make.part(3, turn=2),
        ]
    )  # fmt: skip
    first, second, third = state.rows
    assert first.part == make.part(1, commit="c1").part
    assert first.token_usage == TokenUsage(input=15, output=2, total=17)
    assert first.cost_usd == 0.75
    assert first.evaluation == evaluation.evaluation
    assert (second.token_usage, second.cost_usd, second.evaluation) == (None, None, None)
    assert [row.turn_prompt for row in state.rows] == ["Sort.", None, "Go on."]
    assert third.part.part == state.part_count == 3
    assert (state.total_usage.total, state.total_cost_usd) == (17, 0.75)
    assert state.turn_count == 2
    assert state.part_of_commit("c1") == 1
    assert state.part_of_commit("c9") is None
    assert state.head == "c1"
    assert state.last_recorded == (6, 0)


def test_nothing_has_begun():
    state = TraceState()
    assert (state.part_count, state.turn_count, state.solved_paths, state.total_cost_usd) == (0, 0, 0, None)
    assert state.head is None
    assert state.open_turn is None
    with pytest.raises(TraceFormatError, match="does not say which trajectory"):
        state.snapshot()


def test_an_evaluation_counts_from_the_part_that_made_its_commit(make):
    state = TraceState.of([make.begun(), *(make.part(n, commit=f"c{n}" if n % 2 else None) for n in range(1, 6))])
    assert solved(state) == [0, 0, 0, 0, 0]
    state.apply(make.evaluation("c3", {"format": True, "sort/small": True}))
    assert solved(state) == [0, 0, 2, 2, 2]
    state.apply(make.evaluation("c1", {"format": False, "sort/large": True}))
    assert solved(state) == [1, 1, 3, 3, 3]
    state.apply(make.evaluation("c5", {"format": False, "sort/small": True, "sort/large": False}))
    assert solved(state) == [1, 1, 3, 3, 1]
    assert state.solved_paths == 1
    assert state.best_share == 1.0
    assert state.solved_commit is None


def test_the_workspace_before_the_first_part_counts(make):
    state = TraceState.of([make.begun(), make.part(1), make.evaluation("c0", {"format": True})])
    assert solved(state) == [1]
    assert state.rows[0].evaluation is None
    assert state.newest_evaluation() == state.evaluations["c0"]


def test_an_evaluation_may_come_before_its_part(make):
    evaluation = make.evaluation("c1", {"format": True})
    state = TraceState.of([make.begun(), evaluation, make.part(1, commit="c1")])
    assert state.rows[0].evaluation == evaluation.evaluation
    assert solved(state) == [1]


def test_calls_give_the_newest_results_and_the_latest_numbers(make):
    state = TraceState.of(
        [
            make.begun(),
            make.part(1),
            make.part(2, calls=[make.call("a", {"sort/small": True, "sort/large": False}, path="sort")]),
            make.part(3),
            make.part(4, calls=[make.call("b", {"sort/small": False})]),
        ]
    )
    assert [row.testing_state for row in state.rows] == [
        TestingState(solved_paths=0, total_paths=3),
        TestingState(solved_paths=1, total_paths=3, latest_path="sort", latest_passed=2, latest_total=4),
        TestingState(solved_paths=1, total_paths=3, latest_path="sort", latest_passed=2, latest_total=4),
        TestingState(solved_paths=0, total_paths=3, latest_path="", latest_passed=0, latest_total=2),
    ]


def test_a_build_that_fails_passes_nothing(make):
    passing = make.evaluation("c1", dict.fromkeys(make.paths, True))
    state = TraceState.of([make.begun(), make.part(1, commit="c1"), passing, make.part(2, commit="c2"), make.part(3)])
    state.apply(make.evaluation("c2", {}, status="build_failed"))
    assert solved(state) == [3, 0, 0]
    state.apply(make.part(4, calls=[make.call("a", {"format": True})]))
    state.apply(make.part(5, calls=[make.call("b", {}, path="sort", status_code=422)]))
    assert solved(state) == [3, 0, 0, 1, 1]


@pytest.mark.parametrize("status", ["error", "skipped"])
def test_an_evaluation_that_did_not_run_says_nothing_of_the_tests(make, status):
    state = TraceState.of([make.begun(), make.part(1, commit="c1"), make.evaluation("c1", {"format": True})])
    state.apply(make.part(2, commit="c2"))
    state.apply(make.evaluation("c2", {}, status=status))
    assert solved(state) == [1, 1]
    assert state.rows[1].evaluation.status == status
    assert state.newest_evaluation().commit == "c1"


def test_solved_when_every_path_passes_on_one_commit(make):
    state = TraceState.of([make.begun(), make.part(1, commit="c1"), make.part(2, commit="c2")])
    state.apply(make.evaluation("c1", {"format": True, "sort/small": True}))
    state.apply(make.evaluation("c2", {"sort/large": True}))
    assert solved(state) == [2, 3]
    assert not state.is_solved
    state.apply(make.evaluation("c1", dict.fromkeys(make.paths, True)))
    assert state.solved_commit == "c1"


def test_a_path_that_the_environment_does_not_have_counts_for_nothing(make):
    state = TraceState.of([make.begun(), make.part(1, calls=[make.call("a", {"other": True})])])
    assert solved(state) == [0]


def test_other_test_paths_count_for_all_rows(make):
    state = TraceState.of([make.begun(), make.part(1, calls=[make.call("a", {"format": True, "new": True})])])
    assert solved(state) == [1]
    state.apply(TrajectoryBegun(trajectory=make.trajectory(), test_paths=("format", "new")))
    assert solved(state) == [2]
    assert state.rows[0].testing_state.total_paths == 2
    assert state.initial_commit == "c0"


def test_calls_wait_until_a_part_claims_them(make):
    calls = [make.call(name, {"format": name == "b"}) for name in "abc"]
    recorded = [CallRecorded(call=call, answer="passed") for call in calls]
    state = TraceState.of([make.begun(), make.part(1), *recorded])
    assert list(state.unclaimed_calls) == calls
    assert list(state.unclaimed_answers) == recorded
    state.apply(make.part(2, calls=[calls[0]]))
    assert list(state.unclaimed_calls) == calls[1:]
    assert solved(state) == [0, 0]
    state.apply(CallsClaimed(part=2, call_ids=("b", "c", "unknown")))
    assert state.unclaimed_calls == ()
    assert list(state.rows[1].part.envoi_calls) == calls
    state.apply(CallsClaimed(part=1, call_ids=("b",)))
    assert state.rows[0].part.envoi_calls == ()


def test_a_claimed_call_without_results_changes_the_latest_numbers(make):
    state = TraceState.of([make.begun(), make.part(1), CallRecorded(call=make.call("a", {}, path="x"))])
    assert state.rows[0].testing_state.latest_path is None
    state.apply(CallsClaimed(part=1, call_ids=("a",)))
    assert state.rows[0].testing_state.latest_path == "x"


def test_a_call_on_a_workspace_that_was_lost_belongs_to_no_part(make):
    call = make.call("a", {})
    state = TraceState.of([make.begun(), make.part(1), CallRecorded(call=call), CallsClaimed(part=0, call_ids=("a",))])
    state.apply(CallRecorded(call=call))
    assert state.unclaimed_calls == ()
    assert [row.part.envoi_calls for row in state.rows] == [()]


def test_an_end_is_taken_back_by_a_session_that_begins(make):
    state = TraceState.of([make.begun(), make.session(), ended("part_limit")])
    assert state.end.reason == "part_limit"
    state.apply(make.session("s2"))
    assert state.end is None
    assert [session.session_id for session in state.sessions] == ["s1", "s2"]


def test_the_agent_version_is_the_newest_that_is_known(make):
    state = TraceState.of([make.begun(), make.session(version="1.2"), make.begun(model="m")])
    assert (state.trajectory.agent_version, state.trajectory.model) == ("1.2", "m")
    state.apply(make.session(version="1.3"))
    assert state.trajectory.agent_version == "1.3"


def test_the_open_turn_is_the_one_that_did_not_end(make):
    state = TraceState.of([make.begun(), make.turn(1)])
    assert state.open_turn == 1
    state.apply(TurnEnded(turn=1, at=AT))
    assert state.open_turn is None
    state.apply(make.turn(2))
    assert state.open_turn == 2


def test_unparsed_events_are_counted_once(make):
    state = TraceState.of([make.begun(), make.unparsed(3), make.unparsed(5), make.unparsed(5)])
    assert state.unparsed_events == 2
    assert state.summary().unparsed_events == 2


def test_the_same_part_twice_counts_once(make):
    state = TraceState.of([make.begun(), make.part(1), make.part(1), make.part(2)])
    assert [row.part.part for row in state.rows] == [1, 2]


def test_a_journal_with_holes_still_folds(make):
    facts = [fact for fact in make.run(30) if not (isinstance(fact, PartRecorded) and fact.part.part in (3, 4, 12))]
    state = TraceState.of([*facts, CallsClaimed(part=4, call_ids=("x",))])
    assert len(state.rows) == 27
    assert state.part_count == 30
    assert state.total_usage == TraceState.of(make.run(30)).total_usage


# -- the same from scratch, at any moment ---------------------------------------------------------------


def reference_solved(facts, paths):
    """The definition, word for word, in quadratic time."""
    parts = [fact.part for fact in facts if isinstance(fact, PartRecorded)]
    evaluations = {f.evaluation.commit: f.evaluation for f in facts if isinstance(f, EvaluationRecorded)}
    counts = []
    newest = {result.path: result for result in evaluations["c0"].results} if "c0" in evaluations else {}
    for part in parts:
        for call in part.envoi_calls:
            newest |= {result.path: result for result in call.results}
        if part.repo_checkpoint is not None and part.repo_checkpoint.commit_after in evaluations:
            newest |= {result.path: result for result in evaluations[part.repo_checkpoint.commit_after].results}
        counts.append(sum(path in newest and newest[path].counts.all_passed for path in paths))
    return counts


@st.composite
def runs(draw):
    """Orders of (what happens, to which part, with which paths passing)."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["part", "part", "commit", "call", "evaluation", "usage"]),
                st.integers(0, 12),
                st.tuples(st.booleans(), st.booleans(), st.booleans()),
                st.booleans(),
            ),
            max_size=30,
        )
    )


def facts_of(make, run):
    facts, part, evaluated = [make.begun(), make.session(), make.turn()], 0, set()
    for number, (kind, about, passing, _) in enumerate(run):
        results = dict(zip(make.paths, passing, strict=True))
        if kind in ("part", "commit", "call"):
            part += 1
            calls = [make.call(f"k{number}", dict(list(results.items())[: 1 + about % 3]))] if kind == "call" else []
            facts.append(make.part(part, commit=f"c{part}" if kind == "commit" else None, calls=calls))
        elif kind == "evaluation" and about not in evaluated:
            evaluated.add(about)  # the reference can't tell which of two came first where one lacks paths
            facts.append(make.evaluation(f"c{about}", results))
        elif kind == "usage" and 0 < about <= part:
            facts.append(make.usage(about, number, 0.5))
    return facts


FIXTURE_IS_CONSTANT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@FIXTURE_IS_CONSTANT
@given(run=runs())
def test_incremental_folding_equals_the_fold_from_scratch(make, run):
    facts = facts_of(make, run)
    state = TraceState()
    looks = [True, *(look for *_, look in run), True, True, True]
    for count, fact in enumerate(facts, 1):
        state.apply(fact)
        if looks[min(count, len(looks) - 1)]:  # looking at rows settles them; not looking leaves them to later
            assert state.snapshot() == TraceState.of(facts[:count]).snapshot()
    assert solved(state) == reference_solved(facts, make.paths)
    assert state.rows == TraceState.of(facts).rows
    assert state.solved_paths == (solved(state)[-1] if state.rows else state.solved_paths)


@FIXTURE_IS_CONSTANT
@given(run=runs(), cut=st.integers(0, 30))
def test_a_row_depends_on_nothing_behind_it(make, run, cut):
    facts = facts_of(make, run)
    cut = min(cut, sum(isinstance(fact, PartRecorded) for fact in facts))
    commits = {f"c{number}" for number in range(cut + 1)}

    def is_kept(fact):
        if isinstance(fact, PartRecorded):
            return fact.part.part <= cut
        if isinstance(fact, EvaluationRecorded):
            return fact.evaluation.commit in commits
        return not hasattr(fact, "part") or fact.part <= cut

    shorter = TraceState.of(fact for fact in facts if is_kept(fact))
    whole = TraceState.of(facts)
    assert list(shorter.rows) == list(whole.rows[:cut])


def test_a_part_costs_the_same_late_as_early(make):
    """Counted, not timed: how many rows are made anew per part when someone looks after each."""
    state = TraceState.of([make.begun()])
    made = 0
    for number in range(1, 400):
        before = list(map(id, state.rows))
        state.apply(make.part(number))
        made += sum(id(row) not in set(before) for row in state.rows)
    assert made == 399


def test_a_snapshot_does_not_change_under_its_holder(make):
    state = TraceState.of(make.run(10))
    snapshot = state.snapshot()
    copy = attrs.evolve(snapshot)
    for fact in make.run(20)[3:]:
        state.apply(fact)
    state.apply(make.evaluation("c3", dict.fromkeys(make.paths, True)))
    assert snapshot == copy
    assert len(snapshot.parts) == len(snapshot.testing_states) == 10
