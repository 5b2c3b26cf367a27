"""What is hidden, what is solved, and what the next turn is told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from envoi_trace_core.domain.parts import EnvoiCall, Evaluation, PathResult, TestCounts
from envoi_trace_core.domain.solving import (
    below,
    follow_up_prompt,
    is_hidden,
    is_solved,
    visible_paths,
    visible_status,
)
from envoi_trace_core.harness.answers import answer_text
from envoi_trace_core.harness.runtime import plan_requests

PATHS = ("basics/a", "basics/b", "secret/x", "secret/deep/y", "top")


def result(path: str, passed: int = 1, failed: int = 0, error: str | None = None) -> PathResult:
    counts = TestCounts(passed=passed, failed=failed, total=passed + failed)
    return PathResult(path=path, counts=counts, error=error)


def evaluation(*results: PathResult, **values: object) -> Evaluation:
    return Evaluation(**{"commit": "c", "status": "completed", "results": results, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("glob", "hidden"),
    [
        ("secret", {"secret/x", "secret/deep/y"}),
        ("secret/", {"secret/x", "secret/deep/y"}),
        ("secret/*", {"secret/x", "secret/deep/y"}),
        ("secret/deep", {"secret/deep/y"}),
        ("*/a", {"basics/a"}),
        ("t?p", {"top"}),
        ("SECRET", set()),
        ("sec", set()),
    ],
)
def test_hidden_globs(glob: str, hidden: set[str]) -> None:
    assert {path for path in PATHS if is_hidden(path, [glob])} == hidden
    assert set(visible_paths(PATHS, [glob])) == set(PATHS) - hidden


def test_below_does_not_take_a_name_that_only_begins_alike() -> None:
    assert below(("a/b", "ab/c", "a"), "a") == ("a/b", "a")
    assert below(PATHS, "") == PATHS


def test_solved_needs_every_path_with_a_test_that_passed() -> None:
    assert is_solved([result("a"), result("b")], ["a", "b"])
    assert not is_solved([result("a")], ["a", "b"])
    assert not is_solved([result("a"), result("b", 1, 1)], ["a", "b"])
    assert not is_solved([result("a"), result("b", 0, 0)], ["a", "b"])
    assert not is_solved([result("a"), result("b", error="boom")], ["a", "b"])
    assert not is_solved([], [])


def test_prompt_counts_and_names_the_visible_only() -> None:
    status = visible_status(
        evaluation(
            result("basics/a", 2, 1), result("basics/b"), result("secret/x", 0, 7, "hush"), error="secret/x said hush"
        ),
        PATHS,
        ["secret"],
    )
    text = follow_up_prompt(status)
    assert "3 of 4 tests pass" in text
    assert "basics/a (2 of 3 pass)" in text
    assert "top: no result" in text
    assert "basics/b" not in text
    assert "secret" not in text
    assert "hush" not in text


def test_prompt_when_only_hidden_tests_fail_shows_no_number() -> None:
    results = (result("basics/a"), result("secret/x", 0, 7))
    text = follow_up_prompt(visible_status(evaluation(*results), ("basics/a", "secret/x"), ["secret"]))
    assert "passes" in text
    assert "7" not in text
    assert "secret" not in text


def test_prompt_of_a_failed_build_shows_its_text_bounded() -> None:
    failed = evaluation(status="build_failed", error="line 7\n" + "x" * 100_000)
    text = follow_up_prompt(visible_status(failed, PATHS, ["secret"]))
    assert "line 7" in text
    assert len(text) < 3000


@pytest.mark.parametrize("status", ["error", "skipped"])
def test_prompt_without_a_result(status: str) -> None:
    broken = evaluation(status=status, error="our own trouble")
    text = follow_up_prompt(visible_status(broken, PATHS, []))
    assert text == follow_up_prompt(None)
    assert "trouble" not in text


def test_prompt_is_bounded() -> None:
    paths = [f"suite/test_{number}" for number in range(5000)]
    results = [result(path, 0, 1, "e" * 5000) for path in paths]
    assert len(follow_up_prompt(visible_status(evaluation(*results), paths, []))) < 12_000


def test_answer_is_bounded() -> None:
    results = tuple(result(f"suite/test_{number}", 0, 1, "e" * 9000) for number in range(3000))
    call = EnvoiCall(
        call_id="1",
        path="",
        commit="c",
        timestamp=datetime.now(UTC),
        duration_ms=1,
        status_code=200,
        error=None,
        counts=TestCounts(failed=3000, total=3000),
        results=results,
    )
    text = answer_text(call, {entry.path: "d" * 9000 for entry in results}, PATHS)
    assert text.startswith("0 of 3000 passed.")
    assert "more failing tests" in text or "left out" in text
    assert len(text) < 41_000


def asked(paths: tuple[str, ...], leaves: tuple[str, ...]) -> list[tuple[str, bool]]:
    return [(request["path"], request["alone"]) for request in plan_requests(paths, leaves)]


def test_requests_run_what_was_asked_for_and_nothing_beside() -> None:
    assert asked(PATHS, PATHS) == [("", False)]
    assert asked(PATHS, ("basics/a", "basics/b")) == [("basics", False)]
    assert asked(PATHS, ("basics/a",)) == [("basics/a", True)]
    assert asked(PATHS, ("basics/a", "basics/b", "top")) == [("basics/a", True), ("basics/b", True), ("top", True)]
    assert asked(("a", "a/b"), ("a",)) == [("a", False)]
    assert asked(("only",), ("only",)) == [("", False)]
