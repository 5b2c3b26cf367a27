"""Intervals, against numbers that others published or that can be counted out."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envoi_trace_core.analysis.rates import TaskTrials, clopper_pearson, ks_of, pass_at_k, wilson


@pytest.mark.parametrize(
    ("solved", "tried", "low", "high"),
    # R: binom::binom.wilson(x, n)
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (10, 10, 0.722467, 1.0), (81, 263, 0.255242, 0.366213)],
)
def test_wilson(solved, tried, low, high):
    found = wilson(solved, tried)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low, abs=2e-4), pytest.approx(high, abs=2e-4))
    assert found.value == solved / tried


def test_nothing_tried_has_no_rate():
    assert wilson(0, 0) is None
    assert pass_at_k([], 1) is None
    assert ks_of([]) == []


@pytest.mark.parametrize(
    ("solved", "tried", "low", "high"),
    # R: binom.test(x, n)$conf.int
    [(0, 10, 0.0, 0.3084971), (5, 10, 0.187086, 0.812914), (10, 10, 0.6915029, 1.0), (1, 3, 0.008403759, 0.9057007)],
)
def test_clopper_pearson(solved, tried, low, high):
    found = clopper_pearson(solved, tried)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_clopper_pearson_of_thousands():
    found = clopper_pearson(4999, 5000)
    assert 0.998 < found.low < found.value < found.high < 1


def test_pass_at_k_is_the_share_of_all_choices_of_k():
    tried, solved = 7, 3
    for k in range(1, tried + 1):
        choices = list(itertools.combinations([True] * solved + [False] * (tried - solved), k))
        found = pass_at_k([TaskTrials(tried=tried, solved=solved)], k)
        assert found is not None
        assert found.estimate.value == pytest.approx(sum(map(any, choices)) / len(choices))


def test_only_tasks_with_enough_trials_count():
    tasks = [TaskTrials(tried=4, solved=4), TaskTrials(tried=1, solved=0)]
    one, four = pass_at_k(tasks, 1), pass_at_k(tasks, 4)
    assert one is not None
    assert four is not None
    assert (one.estimate.value, one.tasks) == (0.5, 2)
    assert (four.estimate.value, four.tasks) == (1.0, 1)
    assert pass_at_k(tasks, 5) is None


def test_pass_at_k_is_told_for_ks_that_every_task_has():
    """Else a larger k would be of other tasks, and pass@k could fall as k grows."""
    assert ks_of([TaskTrials(tried=5, solved=0), TaskTrials(tried=9, solved=0)]) == [1, 2, 4, 5]
    assert ks_of([TaskTrials(tried=5, solved=0), TaskTrials(tried=1, solved=0)]) == [1]


def test_the_exact_interval_of_one_task():
    found = pass_at_k([TaskTrials(tried=10, solved=5)], 2)
    assert found is not None
    assert found.estimate.low == pytest.approx(1 - (1 - 0.187086) ** 2, abs=1e-5)
    assert found.estimate.high == pytest.approx(1 - (1 - 0.812914) ** 2, abs=1e-5)


def test_all_alike_is_not_certain():
    none = pass_at_k([TaskTrials(tried=1, solved=0)] * 10, 1)
    every = pass_at_k([TaskTrials(tried=1, solved=1)] * 10, 1)
    assert none is not None
    assert every is not None
    assert (none.estimate.low, none.estimate.value) == (0, 0)
    assert none.estimate.high == pytest.approx(0.3084971, abs=1e-5)
    assert every.estimate.low == pytest.approx(0.6915029, abs=1e-5)


def test_the_bootstrap_is_the_same_each_time_and_covers_the_truth():
    draw = random.Random(3)
    hits = 0
    for number in range(14):
        tasks = [TaskTrials(tried=5, solved=draw.binomialvariate(5, draw.random())) for _ in range(30)]
        found = pass_at_k(tasks, 2)
        assert found is not None
        assert number or found == pass_at_k(tasks, 2)
        hits += found.estimate.low <= 2 / 3 <= found.estimate.high  # the mean of 1 - (1 - p)^2 over p in 0..1
    assert hits >= 11


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=3))
def test_an_interval_holds_its_estimate(outcomes):
    tasks = [TaskTrials(tried=tried, solved=solved) for tried, solved in outcomes]
    found = pass_at_k(tasks, 1)
    assert found is not None
    estimate = found.estimate
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
