"""The one pair of converters between values and JSON: strict, because cattrs' defaults turn None into "None"."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from cattrs import Converter


@cache
def strict_converter() -> Converter:
    """Structures only what is of the right type already; unknown keys are refused."""
    converter = Converter(forbid_extra_keys=True, detailed_validation=False, omit_if_default=True)
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _moment)
    converter.register_unstructure_hook(datetime, datetime.isoformat)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(_exactly(str)(value, str)))
    converter.register_structure_hook_func(lambda kind: kind == Mapping[str, str], _texts)
    return converter


def _exactly(kind: type) -> Any:
    def check(value: Any, _: type) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{value!r:.100} is no {kind.__name__}")
        return value

    return check


def _number(value: Any, _: type) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r:.100} is no number")
    return float(value)


def _moment(value: Any, _: type) -> datetime:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.100} is no date")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return moment


def _texts(value: Any, _: type) -> dict[str, str]:
    if not isinstance(value, dict) or not all(type(word) is str for pair in value.items() for word in pair):
        raise TypeError(f"{value!r:.100} is no mapping of text to text")
    return value
