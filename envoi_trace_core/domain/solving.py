"""Which tests the agent may see, when a trajectory is solved, and what the next turn is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import attrs

from envoi_trace_core.domain.parts import Evaluation, EvaluationStatus, PathResult, TestCounts

MAX_LISTED = 40
MAX_ERROR_CHARS = 2000


def is_hidden(path: str, hidden: Iterable[str]) -> bool:
    """Whether one of the globs names the path, or a suite that holds it."""
    segments = path.split("/")
    prefixes = ["/".join(segments[:end]) for end in range(1, len(segments) + 1)]
    globs = [glob.strip("/") for glob in hidden]
    return any(fnmatchcase(prefix, glob) for glob in globs for prefix in prefixes)


def visible_paths(test_paths: Iterable[str], hidden: Sequence[str]) -> tuple[str, ...]:
    """The test paths that the agent may see, in their order."""
    return tuple(path for path in test_paths if not is_hidden(path, hidden))


def below(test_paths: Iterable[str], prefix: str) -> tuple[str, ...]:
    """The test paths that a request for `prefix` runs: itself, and what stands below it; empty means all."""
    return tuple(path for path in test_paths if not prefix or path == prefix or path.startswith(prefix + "/"))


def is_solved(results: Iterable[PathResult], test_paths: Sequence[str]) -> bool:
    """Whether every path of the schema ran, and each of its tests passed."""
    passed = {result.path for result in results if has_passed(result)}
    return bool(test_paths) and passed.issuperset(test_paths)


def has_passed(result: PathResult) -> bool:
    """Whether a path ran at least one test and none failed."""
    return result.error is None and result.counts.all_passed


def sum_counts(results: Iterable[PathResult]) -> TestCounts:
    """The counts of all paths together."""
    return sum((result.counts for result in results), TestCounts())


@attrs.frozen(kw_only=True)
class VisibleStatus:
    """How the tests that the agent may see stood on one commit."""

    status: EvaluationStatus
    results: tuple[PathResult, ...]
    test_paths: tuple[str, ...]
    """All visible paths of the schema."""
    error: str | None = None

    @property
    def counts(self) -> TestCounts:
        """Of the visible paths only."""
        return sum_counts(self.results)


def visible_status(evaluation: Evaluation, test_paths: Sequence[str], hidden: Sequence[str]) -> VisibleStatus:
    """The part of an evaluation that the agent may know."""
    shown = visible_paths(test_paths, hidden)
    results = tuple(result for result in evaluation.results if result.path in set(shown))
    # A build's text concerns all tests alike. Any other error may name a hidden test.
    error = evaluation.error if evaluation.status == "build_failed" or not hidden else None
    return VisibleStatus(status=evaluation.status, results=results, test_paths=shown, error=error)


def follow_up_prompt(status: VisibleStatus | None) -> str:
    """What the next turn is told; None when no evaluation has ended yet."""
    if status is None or status.status in ("error", "skipped"):
        return (
            "The task is not complete yet. Run the tests with the run_tests tool, mend what fails, and go on "
            "until all of them pass."
        )
    if status.status == "build_failed":
        text = cut(status.error or "no output", MAX_ERROR_CHARS)
        return (
            f"The task is not complete yet: building your work failed.\n\n{text}\n\n"
            "Mend it and go on until all tests pass."
        )
    if not status.test_paths or is_solved(status.results, status.test_paths):
        return (
            "Every test that run_tests shows passes, but the task is not complete yet. Check your work against "
            "the whole task once more, its edge cases included, and mend what is missing."
        )
    counts = status.counts
    return (
        f"The task is not complete yet: {counts.passed} of {counts.total} tests pass.\n\n"
        f"Failing:\n{failing_lines(status)}\n\n"
        "Use run_tests for the details, mend what fails, and go on until all tests pass."
    )


def failing_lines(status: VisibleStatus, max_listed: int = MAX_LISTED) -> str:
    """The visible paths that don't pass, one a line, bounded; paths without a result too."""
    by_path = {result.path: result for result in status.results}
    failing = [path for path in status.test_paths if path not in by_path or not has_passed(by_path[path])]
    lines = [f"- {path}{_how(by_path.get(path))}" for path in failing[:max_listed]]
    if len(failing) > max_listed:
        lines.append(f"- and {len(failing) - max_listed} more")
    return "\n".join(lines)


def _how(result: PathResult | None) -> str:
    if result is None:
        return ": no result"
    first_line = (result.error or "").strip().partition("\n")[0]
    error = f": {cut(first_line, 200)}" if first_line else ""
    return f" ({result.counts.passed} of {result.counts.total} pass){error}"


def cut(text: str, max_chars: int) -> str:
    """The text, or its beginning and end with a note of how much is missing between them."""
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
