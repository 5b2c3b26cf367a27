"""A command whose options are the fields of an attrs class, so that several commands can share them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import attrs
import typer

from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.config import Shape

NOT_OPTIONS = frozenset({"given"})


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Make a typer command of a function that takes `options: RunOptions` beside parameters of its own.

    Typer reads the signature: each field of `RunOptions` stands in it. Where several values are possible, typer wants
    a list; the class holds a tuple.

    Example:
        ```python
        @app.command("resume")
        @takes_run_options
        def resume(trajectory: Annotated[str, typer.Argument()], options: RunOptions) -> None: ...
        ```
    """
    own_hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=own_hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name not in ("context", "options")
    ]
    wants_context = "context" in own_hints
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    options = option_parameters()

    def run(**values: Any) -> None:
        context: typer.Context = values["context"] if wants_context else values.pop("context")
        fields = {option.name: values.pop(option.name) for option in options}
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        given = given_options(context)
        _drop_options_of_another(fields, given, context.default_map or {})
        command(options=RunOptions(**fields, given=given), **values)

    parameters = [*own, context, *options]
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return run


def _drop_options_of_another(fields: dict[str, Any], given: frozenset[str], settings: Mapping[str, Any]) -> None:
    """`agent-opt` of a configuration file belongs to the agent that the file names, not to `--agent other`."""
    for name in ("agent", "sandbox", "storage", "launcher"):
        if name in given and f"{name}_opt" not in given and fields[name] != settings.get(name):
            fields[f"{name}_opt"] = ()


def option_shapes() -> dict[str, Shape]:
    """Each option of run mode with the shape of its value, for the configuration."""
    shapes: dict[str, Shape] = {}
    for option in option_parameters():
        if isinstance(option.default, list):
            shapes[option.name] = "list"
        else:
            shapes[option.name] = "flag" if isinstance(option.default, bool) else "value"
    return shapes


def option_parameters() -> list[inspect.Parameter]:
    """Each option of run mode as a parameter that typer understands."""
    hints = get_type_hints(RunOptions, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=list(field.default) if isinstance(field.default, tuple) else field.default,
            annotation=_as_typer_has_it(hints[field.name]),
        )
        for field in attrs.fields(RunOptions)
        if field.name not in NOT_OPTIONS
    ]


def _as_typer_has_it(annotation: Any) -> Any:
    base, *extras = get_args(annotation)
    if get_origin(base) is tuple:
        base = list[get_args(base)[0]]  # type: ignore[misc]
    return Annotated[base, *extras]


def given_options(context: typer.Context) -> frozenset[str]:
    """The names of the options that stood on the command line."""
    found = set()
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            found.add(name)
    return frozenset(found)
