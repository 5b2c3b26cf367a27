"""The one pair of converters between values and JSON: strict, because cattrs' defaults turn None into "None"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cattrs import Converter


@cache
def strict_converter(*, is_stored_for_good: bool = False) -> Converter:
    """Structures only what is of the right type already; all else is a TypeError, ValueError or KeyError.

    It knows str, int, float, bool, datetime with a zone, Path, Literal, tuples, mappings and attrs classes.

    Args:
        is_stored_for_good: For what other versions read too: unknown keys are passed over (a newer version may add
            some), and every field is written (its default may change). Otherwise unknown keys are refused.
    """
    converter = Converter(
        forbid_extra_keys=not is_stored_for_good, detailed_validation=False, omit_if_default=not is_stored_for_good
    )
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _moment)
    converter.register_unstructure_hook(datetime, _moment_text)
    converter.register_structure_hook(Path, lambda value, _: Path(_exactly(str)(value, str)))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_factory(_is_literal, _literal_hook)
    converter.register_structure_hook_factory(_is_mapping, lambda kind: _mapping_hook(converter, kind))
    converter.register_structure_hook_factory(_is_uniform_tuple, lambda kind: _tuple_hook(converter, kind))
    return converter


def _exactly[T](kind: type[T]) -> Callable[[Any, Any], T]:
    def structure(value: Any, _: Any) -> T:
        if type(value) is not kind:
            raise TypeError(f"{value!r:.100} is no {kind.__name__}")
        return value

    return structure


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r:.100} is no number")
    return float(value)


def _moment(value: Any, _: Any) -> datetime:
    moment = datetime.fromisoformat(_exactly(str)(value, str))
    if moment.tzinfo is None:
        raise ValueError(f"{value!r:.100} has no time zone")
    return moment.astimezone(UTC)


def _moment_text(moment: datetime) -> str:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _literal_hook(kind: Any) -> Callable[[Any, Any], Any]:
    words = get_args(kind)

    def structure(value: Any, _: Any) -> Any:
        if not any(value == word and type(value) is type(word) for word in words):
            raise ValueError(f"{value!r:.100} is none of {', '.join(map(str, words))}")
        return value

    return structure


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) in (dict, Mapping)


def _mapping_hook(converter: Converter, kind: Any) -> Callable[[Any, Any], dict[Any, Any]]:
    key_kind, item_kind = get_args(kind)

    def structure(value: Any, _: Any) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"{value!r:.100} is no mapping")
        return {converter.structure(key, key_kind): converter.structure(item, item_kind) for key, item in value.items()}

    return structure


def _is_uniform_tuple(kind: Any) -> bool:
    arguments = get_args(kind)
    return get_origin(kind) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis


def _tuple_hook(converter: Converter, kind: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    item_kind = get_args(kind)[0]

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):  # a string would fall apart into its characters
            raise TypeError(f"{value!r:.100} is no list")
        return tuple(converter.structure(each, item_kind) for each in value)

    return structure
