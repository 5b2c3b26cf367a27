"""What a run of the tests gave. The runner's answer comes out of a sandbox: nothing in it is believed unchecked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from envoi_trace_core.domain.parts import PathResult, TestCounts
from envoi_trace_core.domain.solving import cut, sum_counts
from envoi_trace_core.errors import HarnessError

MAX_ERROR_CHARS = 4200
MAX_BUILD_CHARS = 21_000
MAX_DETAIL_CHARS = 6200
MAX_COUNT = 1_000_000_000


@attrs.frozen(kw_only=True)
class TestRun:
    """The tests of some paths on one tree."""

    __test__ = False  # pytest: not a test class

    status: Literal["completed", "build_failed"]
    results: tuple[PathResult, ...] = ()
    """One for each path that was asked for, in that order; empty when the build failed."""
    detail: Mapping[str, str] = attrs.field(factory=dict)
    """What the environment said about a path that failed, bounded; may lack paths."""
    error: str | None = None
    """The build's text."""
    duration_ms: int = 0

    @property
    def counts(self) -> TestCounts:
        """Of all paths together."""
        return sum_counts(self.results)


class RuntimeLostError(Exception):
    """The runner could not reach the runtime."""


def read_answer(stdout: bytes, paths: Sequence[str], duration_ms: int) -> TestRun:
    """Check the runner's answer.

    Raises:
        RuntimeLostError: The runtime did not answer it.
        HarnessError: It is no answer.
    """
    answer = json_object(stdout)
    status = answer.get("status")
    if status == "runtime_lost":
        raise RuntimeLostError(_text(answer.get("error"), MAX_ERROR_CHARS) or "no answer")
    if status == "build_failed":
        error = _text(answer.get("error"), MAX_BUILD_CHARS) or "the build gave no text"
        return TestRun(status="build_failed", error=error, duration_ms=duration_ms)
    entries = answer.get("results")
    if status != "completed" or not isinstance(entries, list):
        raise HarnessError("The test runner in the evaluation sandbox gave no results.")
    by_path = {str(entry.get("path")): entry for entry in entries if isinstance(entry, dict)}
    results = tuple(_result(path, by_path.get(path)) for path in paths)
    detail = {path: _text(by_path[path].get("detail"), MAX_DETAIL_CHARS) for path in paths if path in by_path}
    return TestRun(
        status="completed",
        results=results,
        detail={path: text for path, text in detail.items() if text},
        duration_ms=duration_ms,
    )


def json_object(stdout: bytes) -> dict[str, Any]:
    """The one JSON object that a program in a sandbox wrote.

    Raises:
        HarnessError: It is none.
    """
    try:
        answer = json.loads(stdout)
    except (ValueError, RecursionError) as error:
        raise HarnessError("The test runner in the evaluation sandbox gave no JSON.") from error
    if not isinstance(answer, dict):
        raise HarnessError("The test runner in the evaluation sandbox gave no JSON object.")
    return answer


def _result(path: str, entry: dict[str, Any] | None) -> PathResult:
    passed, failed = (_count(entry.get("passed")), _count(entry.get("failed"))) if entry else (None, None)
    if entry is None or passed is None or failed is None:
        missing = "The environment gave no result for this path."
        return PathResult(path=path, counts=TestCounts(failed=1, total=1), error=missing)
    counts = TestCounts(passed=passed, failed=failed, total=passed + failed)
    return PathResult(path=path, counts=counts, error=_text(entry.get("error"), MAX_ERROR_CHARS) or None)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def _text(value: Any, max_chars: int) -> str:
    # A lone surrogate is valid JSON and can't be written as UTF-8.
    return cut(value, max_chars).encode("utf-8", "replace").decode() if isinstance(value, str) else ""
