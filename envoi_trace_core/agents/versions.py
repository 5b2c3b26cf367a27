"""Which versions of an agent's program are allowed: `0.163.0`, or comparisons such as `>=0.160,<0.170`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import attrs

from envoi_trace_core.errors import UsageError

_VERSION = re.compile(r"\d+(?:\.\d+)+(?:-[0-9A-Za-z.-]+)?")
_CONDITION = re.compile(r"\s*(==|>=|<=|!=|>|<)?\s*(\d+(?:\.\d+)*(?:-[0-9A-Za-z.-]+)?)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def find_version(text: str) -> str | None:
    """The first thing in a program's `--version` output that looks like a version."""
    found = _VERSION.search(text)
    return found.group() if found else None


def _key(version: str) -> tuple[tuple[int, ...], bool]:
    """Ordering of versions: a pre-release comes before its release; pre-releases are not told apart."""
    release, dash, _pre = version.partition("-")
    numbers = [int(number[:18]) for number in release.split(".")][:6]
    return tuple(numbers + [0] * (6 - len(numbers))), not dash


@attrs.frozen
class VersionRule:
    """Conditions that a version must all meet; none allows every version."""

    conditions: tuple[tuple[str, str], ...] = ()
    """Pairs of an operator and a version."""

    @classmethod
    def parse(cls, text: str, *, option: str = "version") -> VersionRule:
        """Read what the user wrote.

        Raises:
            UsageError: It is no version and no list of comparisons.
        """
        conditions = []
        for word in filter(str.strip, text.split(",")):
            found = _CONDITION.fullmatch(word)
            if found is None:
                raise UsageError(
                    f"{option}={text!r} is no version",
                    mend=f"give one such as {option}=0.163.0, or a range such as {option}='>=0.160,<0.170'",
                )
            conditions.append((found[1] or "==", found[2]))
        return cls(tuple(conditions))

    def allows(self, version: str) -> bool:
        """Whether a version, as `find_version` gives it, meets every condition."""
        return all(_OPERATORS[sign](_key(version), _key(wanted)) for sign, wanted in self.conditions)

    @property
    def exact(self) -> str | None:
        """The one version that is allowed; None when it is a range."""
        return next((wanted for sign, wanted in self.conditions if sign == "=="), None)

    def __str__(self) -> str:
        return ",".join(f"{sign}{wanted}" for sign, wanted in self.conditions) or "any version"
