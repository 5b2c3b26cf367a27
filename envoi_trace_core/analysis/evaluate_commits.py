"""Which commits of a trace are evaluated: the words of `--commits`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from envoi_trace_core.errors import UsageError
from envoi_trace_core.trace.reader import Trace

KEPT = ("completed", "build_failed")
"""Results that say something about the commit."""
_EVERY = re.compile(r"every:([1-9]\d{0,8})")
_PARTS = re.compile(r"\d{1,9}(,\d{1,9})*")
WORDS = "all, last, missing, every:K, or parts such as 3,14"


@attrs.frozen(kw_only=True)
class ChosenCommit:
    """A commit, and the part that made it."""

    commit: str
    part: int


def choose_commits(trace: Trace, words: str) -> Sequence[ChosenCommit]:
    """The commits that `--commits` names, in the order in which they were made.

    `every:K` takes every K-th commit and the last one; `missing` those that the trace holds no result of; numbers are
    parts, and mean the workspace right after them.

    Raises:
        UsageError: It is none of those words, a part is out of range, or there is no such commit.
    """
    made = [ChosenCommit(commit=commit, part=part) for commit, part in trace.commits.items()]
    if not made:
        raise UsageError(
            f"trajectory {trace.trajectory.trajectory_id} made no commit: there is nothing to evaluate",
            mend="envoi-trace show shows what it did",
        )
    every = _EVERY.fullmatch(words)
    if words == "all":
        return made
    if words == "last":
        return made[-1:]
    if words == "missing":
        done = {commit for commit, found in trace.evaluations.items() if found.status in KEPT}
        return [chosen for chosen in made if chosen.commit not in done]
    if every:
        step = int(every[1])
        return [chosen for number, chosen in enumerate(made, 1) if number % step == 0 or number == len(made)]
    if _PARTS.fullmatch(words):
        return _of_parts(trace, [int(word) for word in words.split(",")])
    raise UsageError(f"--commits {words!r:.60} names no commits", mend=f"--commits takes {WORDS}")


def _of_parts(trace: Trace, numbers: Sequence[int]) -> Sequence[ChosenCommit]:
    chosen: dict[str, ChosenCommit] = {}
    for number in sorted(set(numbers)):
        if not 1 <= number <= len(trace.rows):
            raise UsageError(
                f"part {number} is out of range: trajectory {trace.trajectory.trajectory_id} has parts 1 to "
                f"{len(trace.rows)}",
                mend=f"--part {len(trace.rows)} is the last",
            )
        commit = trace.rows[number - 1].part.git_commit
        if commit is None:
            raise UsageError(f"part {number} has no commit: the workspace was not recorded then")
        chosen.setdefault(commit, ChosenCommit(commit=commit, part=trace.commits.get(commit, number)))
    return list(chosen.values())
