"""The text that `run_tests` answers with: what a model needs to mend its work, bounded, and nothing hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envoi_trace_core.domain.parts import EnvoiCall, PathResult
from envoi_trace_core.domain.solving import cut, has_passed

MAX_ANSWER_CHARS = 40_000
MAX_BUILD_CHARS = 20_000
MAX_FAILING = 50
MAX_DETAIL_CHARS = 4000
MAX_SUITES = 50


def answer_text(call: EnvoiCall, detail: Mapping[str, str], visible: Sequence[str]) -> str:
    """The answer to a call.

    Args:
        call: As it is recorded.
        detail: What the environment said about failing paths; empty when the answer is made from the record.
        visible: The test paths that the agent may see.
    """
    if call.status_code == 404:
        return f"No test matches {call.path!r}. {_offer(visible)}"
    if call.status_code == 422:
        return f"The build failed, so no test ran.\n\n{cut(call.error or 'no output', MAX_BUILD_CHARS)}"
    if call.status_code != 200:
        return "The test harness failed; this is not a fault of your work. Try again later."
    failing = [result for result in call.results if not has_passed(result)]
    lines = [f"{call.counts.passed} of {call.counts.total} passed."]
    if not failing:
        return lines[0]
    lines += [_failure(result, detail.get(result.path, "")) for result in failing[:MAX_FAILING]]
    if len(failing) > MAX_FAILING:
        lines.append(f"{len(failing) - MAX_FAILING} more failing tests: call run_tests with a path for less at once.")
    return cut("\n\n".join(lines), MAX_ANSWER_CHARS)


def _failure(result: PathResult, detail: str) -> str:
    lines = [f"FAILED {result.path}: {result.counts.passed} of {result.counts.total} passed"]
    if result.error:
        lines.append(cut(result.error, MAX_DETAIL_CHARS))
    if detail:
        lines.append(cut(detail, MAX_DETAIL_CHARS))
    return "\n".join(lines)


def _offer(visible: Sequence[str]) -> str:
    if not visible:
        return "No test can be run by this tool."
    suites = list(dict.fromkeys(path.partition("/")[0] for path in visible))
    more = f" and {len(suites) - MAX_SUITES} more" if len(suites) > MAX_SUITES else ""
    return f"Known: {', '.join(suites[:MAX_SUITES])}{more}. An empty path runs all tests."
