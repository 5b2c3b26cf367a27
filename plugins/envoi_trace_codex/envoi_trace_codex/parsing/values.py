"""Reading JSON that nobody promised: every getter gives a value of its type, or its default."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
MALFORMED = (ValueError, TypeError, RecursionError, OverflowError)
"""What `load` and the getters can raise on hostile input; all else is a bug."""


def load(raw: str) -> Any:
    """Parse JSON; refuses NaN and infinities, which are no JSON.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    return json.loads(raw, parse_constant=_refuse)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def dump(value: Any) -> str:
    """JSON text on one line, readable, and always encodable as UTF-8."""
    return clean(json.dumps(value, ensure_ascii=False, sort_keys=False))


def clean(text: str) -> str:
    """Text without lone surrogates, which JSON can smuggle in and no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    """A JSON array, or an empty one."""
    return value if isinstance(value, list) else ()


def text(value: Any) -> str:
    """A string, or an empty one."""
    return clean(value) if isinstance(value, str) else ""


def integer(value: Any, *, limit: int = INT64_MAX) -> int | None:
    """A whole number that fits, or None."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -limit <= value <= limit else None


def count(value: Any) -> int:
    """A number of tokens: never negative, zero when there is none."""
    return max(integer(value, limit=2**53) or 0, 0)


def duration(value: Any) -> int | None:
    """Milliseconds, or None."""
    number = integer(value)
    return number if number is not None and number >= 0 else None


def moment_of_ms(value: Any) -> datetime | None:
    """A time from milliseconds since 1970, if it is one that a clock could show."""
    number = integer(value)
    if number is None or not 0 < number < 253_402_300_800_000:  # the year 10000
        return None
    return datetime.fromtimestamp(number / 1000, UTC)


def moment_of_text(value: Any) -> datetime | None:
    """A time from ISO 8601 with a zone, or None."""
    try:
        moment = datetime.fromisoformat(text(value))
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def camel(name: str) -> str:
    """`aggregated_output` and `AggregatedOutput` as `aggregatedOutput`."""
    first, *rest = name.split("_")
    return first[:1].lower() + first[1:] + "".join(word[:1].upper() + word[1:] for word in rest)


def content_text(value: Any) -> str:
    """The text of a tool's output: a string, or a list of blocks of which some carry text."""
    if isinstance(value, str):
        return clean(value)
    texts = [text(mapping(block).get("text")) for block in sequence(value)]
    return "\n".join(part for part in texts if part)
