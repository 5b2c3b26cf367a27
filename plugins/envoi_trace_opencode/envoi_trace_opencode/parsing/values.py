"""Reading JSON that may be anything: a value of the wrong type counts as absent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


class UnreadableError(Exception):
    """Why an event can't be understood."""


def load(raw: str) -> Mapping[str, Any]:
    """A line as a JSON object.

    Raises:
        UnreadableError: It is none.
    """
    try:
        value = json.loads(raw)
        if "\\u" in raw:  # an escaped lone surrogate can't be stored as UTF-8
            told = json.dumps(value, ensure_ascii=False)
            value = json.loads(told.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"no JSON: {str(error)[:80]}") from error
    if not isinstance(value, dict):
        raise UnreadableError("no JSON object")
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """An object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """A string, else an empty one."""
    return value if isinstance(value, str) else ""


def integer(value: Any, maximum: int = INT64_MAX) -> int | None:
    """A whole number within plus and minus the maximum, else None."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > maximum:
        return None
    return value


def count(value: Any) -> int:
    """A whole number of things, else 0."""
    return max(integer(value) or 0, 0)


def price(value: Any) -> float | None:
    """A sum of money above zero, else None: OpenCode says 0 where it knows no price."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def moment(value: Any) -> datetime | None:
    """Milliseconds since 1970 as a time, else None."""
    milliseconds = integer(value) if not isinstance(value, float) else None
    if milliseconds is None or not 0 < milliseconds < 4_102_444_800_000:  # the year 2100
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def as_json(value: Any) -> str:
    """A value as JSON text, on one line."""
    return json.dumps(value, ensure_ascii=False)


def first_line(words: str, length: int = 160) -> str:
    """The first line that is not empty, cut."""
    line = next((line.strip() for line in words.splitlines() if line.strip()), "")
    return line if len(line) <= length else line[: length - 1] + "…"
