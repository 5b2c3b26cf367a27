"""Counting what an environment returned, and reading the runner's answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from envoi_trace_core.domain.parts import TestCounts
from envoi_trace_core.errors import HarnessError
from envoi_trace_core.harness.results import RuntimeLostError, read_answer
from envoi_trace_core.harness.runner import count_result


@pytest.mark.parametrize(
    ("value", "passed", "failed", "has_error"),
    [
        ({"passed": 3, "failed": 1, "total": 4}, 3, 1, False),
        ({"passed": 3, "total": 5}, 3, 2, False),
        ({"passed": 3, "failed": 0, "total": 5}, 3, 2, False),
        ({"passed": 3, "failed": 0, "skipped": 2, "total": 5}, 3, 0, False),
        ({"failed": 1, "total": 4}, 3, 1, False),
        ({"passed": 0, "failed": 0, "total": 0}, 0, 0, False),
        ({"passed": True}, 1, 0, False),
        ({"passed": False, "why": "x"}, 0, 1, False),
        (True, 1, 0, False),
        (False, 0, 1, False),
        (None, 1, 0, False),
        ({"error": "boom"}, 0, 1, True),
        ({"error": None, "passed": 2, "failed": 0, "total": 2}, 2, 0, False),
        ({"passed": 2, "failed": 0, "total": 2, "error": "and yet"}, 2, 1, True),
        ({"a": {"passed": 1, "failed": 0, "total": 1}, "b": {"error": "x"}}, 1, 1, True),
        ([{"passed": 1, "failed": 0, "total": 1}, {"passed": False}], 1, 1, False),
        ({"a": True, "b": False}, 1, 1, False),
        ({"score": 0.5}, 0, 1, True),
        ("fine", 0, 1, True),
        ({"passed": -3, "failed": -1, "total": -4}, 0, 0, False),
    ],
)
def test_count(value: Any, passed: int, failed: int, has_error: bool) -> None:
    counted = count_result(value)
    assert counted[:2] == (passed, failed)
    assert (counted[2] is not None) is has_error


def test_endless_nesting_is_no_trouble() -> None:
    value: Any = {"passed": 1}
    for _ in range(500):
        value = {"deeper": value}
    assert count_result(value)[1] == 1


def answer(**values: Any) -> bytes:
    return json.dumps(values).encode()


def test_results_come_in_the_order_asked_for_and_a_missing_one_failed() -> None:
    entry = {"path": "b", "passed": 2, "failed": 0, "error": None, "detail": ""}
    stranger = {"path": "c", "passed": 9, "failed": 0, "error": None, "detail": ""}
    run = read_answer(answer(status="completed", results=[stranger, entry]), ["a", "b"], 5)
    assert [result.path for result in run.results] == ["a", "b"]
    assert run.results[0].counts == TestCounts(failed=1, total=1)
    assert run.results[0].error
    assert run.counts == TestCounts(passed=2, failed=1, total=3)


@pytest.mark.parametrize("bad", [True, -1, 1.5, "1", None, 10**12])
def test_a_count_that_is_none_is_no_pass(bad: Any) -> None:
    run = read_answer(answer(status="completed", results=[{"path": "a", "passed": bad, "failed": 0}]), ["a"], 1)
    assert run.counts == TestCounts(failed=1, total=1)


@pytest.mark.parametrize("stdout", [b"", b"[]", b"{}", b"\xff", b'{"status": "completed"}', b"[" * 100_000])
def test_what_is_no_answer(stdout: bytes) -> None:
    with pytest.raises(HarnessError):
        read_answer(stdout, ["a"], 1)


def test_texts_are_bounded_and_can_be_written() -> None:
    entry = {"path": "a", "passed": 0, "failed": 1, "error": "e" * 10**6, "detail": "\ud800" + "d" * 10**6}
    run = read_answer(answer(status="completed", results=[entry]), ["a"], 1)
    assert len(run.results[0].error or "") < 5000
    assert len(run.detail["a"].encode()) < 7000
    assert len(read_answer(answer(status="build_failed", error="x" * 10**6), ["a"], 1).error or "") < 22_000


def test_lost_runtime_is_told_apart() -> None:
    with pytest.raises(RuntimeLostError, match="refused"):
        read_answer(answer(status="runtime_lost", error="refused"), ["a"], 1)
