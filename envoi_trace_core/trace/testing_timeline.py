"""How many test paths pass after each part, kept up to date at a constant price a result.

A path's newest result may come from a test call of a part, or from the evaluation of the commit that a part made,
which arrives later. Both belong to that part: what counts at part N is the newest result of parts up to N.
So a late result changes the count from its part up to the path's next result: two numbers of a list of differences.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

import attrs

CALLS = 0
EVALUATION = 1
"""Rank of a result within its part: an evaluation is of the commit right after the part, so it is newer."""

Moment = tuple[int, int, int]
"""(part number, or 0 for before the first; rank; number within both)."""


@attrs.define
class _PathHistory:
    moments: list[Moment] = attrs.field(factory=list)
    passed: list[bool] = attrs.field(factory=list)


@attrs.define
class TestingTimeline:
    """Counts the test paths that pass. Paths that are not of the environment are ignored."""

    __test__ = False  # pytest: not a test class

    test_paths: tuple[str, ...] = ()
    passing_now: int = 0
    """After the newest part."""
    _differences: dict[int, int] = attrs.field(factory=dict)
    _histories: dict[str, _PathHistory] = attrs.field(factory=dict)
    _counted: frozenset[str] = frozenset()

    def set_test_paths(self, test_paths: tuple[str, ...]) -> None:
        """Count these paths from now on, for all parts."""
        self.test_paths = test_paths
        self._counted = frozenset(test_paths)
        self._differences.clear()
        self.passing_now = 0
        histories, self._histories = self._histories, {}
        for path, history in histories.items():
            for moment, passed in zip(history.moments, history.passed, strict=True):
                self.add(moment, {path: passed})

    def add(self, moment: Moment, results: Mapping[str, bool]) -> None:
        """Take in whether paths passed at a moment; a second result of the same moment replaces the first."""
        for path, passed in results.items():
            self._add_one(moment, path, passed)

    def difference(self, part: int) -> int:
        """By how much the number of passing paths changed at a part (0: before the first)."""
        return self._differences.get(part, 0)

    def _add_one(self, moment: Moment, path: str, passed: bool) -> None:
        history = self._histories.setdefault(path, _PathHistory())
        at = bisect_left(history.moments, moment)
        before = history.passed[at - 1] if at else False
        is_replacement = at < len(history.moments) and history.moments[at] == moment
        old = history.passed[at] if is_replacement else before
        if is_replacement:
            history.passed[at] = passed
        else:
            history.moments.insert(at, moment)
            history.passed.insert(at, passed)
        if path not in self._counted or passed == old:
            return
        change = int(passed) - int(old)
        self._differences[moment[0]] = self.difference(moment[0]) + change
        if at + 1 < len(history.moments):
            next_part = history.moments[at + 1][0]
            self._differences[next_part] = self.difference(next_part) - change
        else:
            self.passing_now += change


def all_failing(paths: Iterable[str], prefix: str = "") -> dict[str, bool]:
    """What a build that failed says of the paths at or below `prefix`: none passes."""
    return {path: False for path in paths if not prefix or path == prefix or path.startswith(prefix + "/")}
