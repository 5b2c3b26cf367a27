"""Values of a plan: run options as TOML has them, checked by what the command line says of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs

from envoi_trace_core.cli.run_options import OF_SEVERAL, RunOptions
from envoi_trace_core.errors import UsageError

BATCH_KEYS = ("name", "trials", "concurrency", "retries", "max-total-cost-usd")
"""Keys of the plan itself that are one value."""
ON_THE_COMMAND_LINE = "it is of the command: envoi-trace batch PLAN.toml --{}"
OWN_WORD: Mapping[str, str] = {
    **dict.fromkeys(("storage", "storage_opt"), "a batch has one storage; set it at the top of the plan"),
    **dict.fromkeys(OF_SEVERAL - {"batch"}, "it is of the whole batch; set it at the top of the plan"),
    "batch": "the batch's name stands at the top of the plan: name",
    "trajectory_id": "each trajectory has an id of its own, made of the batch's name",
    **{
        name: ON_THE_COMMAND_LINE.format(name.replace("_", "-"))
        for name in ("launcher", "launcher_opt", "detach", "preemptible", "json", "quiet", "debug", "fail_under")
    },
}
"""Run options that are no option of a cell, and where they belong."""


@attrs.frozen(kw_only=True)
class _Shape:
    base: Any
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


@cache
def _shapes() -> dict[str, _Shape]:
    shapes = {}
    for name, hint in get_type_hints(RunOptions, include_extras=True).items():
        arguments = get_args(hint)
        if name == "given" or len(arguments) < 2:
            continue
        base, option = arguments[0], arguments[1]
        inner = [word for word in get_args(base) if word is not type(None)]
        if get_origin(base) not in (tuple, Literal) and inner:
            base = inner[0]  # of `X | None`
        choices = get_args(base) if get_origin(base) is Literal else ()
        base = tuple if get_origin(base) is tuple else str if choices else base
        shapes[name] = _Shape(base=base, choices=choices, minimum=option.min, maximum=option.max)
    return shapes


CELL_OPTIONS: tuple[str, ...] = tuple(
    field.name for field in attrs.fields(RunOptions) if field.name != "given" and field.name not in OWN_WORD
)
"""Run options that a cell may set."""


def plain_value(key: str, value: Any) -> Any:
    """A key of the plan itself.

    Raises:
        UsageError: The value is not what is expected.
    """
    if key == "name":
        return _checked(_Shape(base=str), value)
    return option_value(key.replace("-", "_"), value)


def option_value(option: str, value: Any) -> Any:
    """A run option's value, as the command line would have it.

    Raises:
        UsageError: The value is not what is expected.
    """
    return _checked(_shapes()[option], value)


def _checked(shape: _Shape, value: Any) -> Any:
    if shape.base is tuple:
        return _words(value)
    is_right = {
        str: isinstance(value, str) and value != "",
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
    }[shape.base]
    if is_right and shape.choices:
        is_right = value in shape.choices
    if is_right and shape.minimum is not None:
        is_right = value >= shape.minimum
    if is_right and shape.maximum is not None:
        is_right = value <= shape.maximum
    if not is_right:
        raise UsageError(f"expects {_expected(shape)}, not {value!r:.80}")
    return float(value) if shape.base is float else value


def _expected(shape: _Shape) -> str:
    if shape.choices:
        return f"one of {', '.join(shape.choices)}"
    what = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}[shape.base]
    if shape.minimum is not None and shape.maximum is not None:
        return f"{what} from {shape.minimum:g} to {shape.maximum:g}"
    return f"{what} of at least {shape.minimum:g}" if shape.minimum is not None else what


def _words(value: Any) -> tuple[str, ...]:
    """A list option: a table of keys and values, a list of texts, or one text."""
    if isinstance(value, dict):
        return tuple(f"{key}={_text(item)}" for key, item in value.items())
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UsageError(f"expects a table of keys and values, or a list of texts, not {value!r:.80}")
    return tuple(items)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"expects texts, numbers, true or false as values, not {value!r:.80}")
