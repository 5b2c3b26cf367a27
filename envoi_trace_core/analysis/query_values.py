"""Values of a query's result: from Arrow to what JSON and CSV can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def plain(column: pa.Array) -> list[Any]:
    """The values of a column. Arrow has sums as decimals and intervals in a class of its own."""
    return [plain_value(value) for value in column.to_pylist(maps_as_pydicts="lossy")]


def plain_value(value: Any) -> Any:
    """None, bool, int, float, str, or lists and mappings of those; numbers that JSON lacks become None."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() and _is_whole(value) else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case Mapping():
            return {str(name): plain_value(item) for name, item in value.items()}
        case list():
            return [plain_value(item) for item in value]
        case tuple():  # of all that Arrow gives, an interval
            months, days, nanoseconds = value
            return {"months": months, "days": days, "seconds": nanoseconds / 1e9}
        case _:
            return str(value)


def _is_whole(value: Decimal) -> bool:
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= 0
