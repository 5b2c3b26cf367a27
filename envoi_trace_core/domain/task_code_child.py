"""Runs `params()` or `generate()` of a task in a process of its own. Started by `task_code`; standard library only.

Arguments: the file, the function, the parameters of the user as JSON. Prints one JSON object on the stdout that
it was started with; what the task's code prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import runpy
import sys
import traceback
from collections.abc import Awaitable, Callable


def main() -> None:
    """Call the function and answer."""
    file, function, overrides = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    sys.argv = [file]
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path[0] = os.path.dirname(file)  # noqa: PTH120 - as `python FILE` has it, for modules beside it
    with answer:
        answer.write(_answer(file, function, overrides))


def _answer(file: str, function: str, overrides: dict[str, str]) -> str:
    try:
        # A name of its own: `if __name__ == "__main__"` must not run.
        namespace = runpy.run_path(file, run_name="envoi_trace_task")
        call = namespace.get(function)
        if not callable(call):
            return json.dumps({"missing": True})
        taken = _taken(call, overrides)
        value = call(**taken)
        if inspect.isawaitable(value):
            value = asyncio.run(_result_of(value))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the task's code may raise anything
        return json.dumps(_described(error, file))
    try:
        return json.dumps({"value": value, "taken": sorted(taken)}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"not_json": str(error), "type": type(value).__name__})


async def _result_of(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _taken(call: Callable[..., object], overrides: dict[str, str]) -> dict[str, object]:
    """The user's parameters that the function names, each as the type of its default."""
    parameters = inspect.signature(call).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    taken: dict[str, object] = {}
    for name, text in overrides.items():
        parameter = parameters.get(name)
        if parameter is not None and parameter.kind in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            taken[name] = _like(parameter.default, text, name)
        elif takes_all:
            taken[name] = text
    return taken


def _like(default: object, text: str, name: str) -> object:
    """The text as the type of a default: a whole number stays one."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ValueError(f"parameter {name!r} expects true or false, not {text!r}")
        return text.lower() in ("true", "1", "yes", "on")
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            raise ValueError(f"parameter {name!r} expects a number, not {text!r}") from None
    return text


def _described(error: BaseException, file: str) -> dict[str, object]:
    """Where in the task's own folder an error arose, and its text."""
    folder = os.path.dirname(file) + os.sep  # noqa: PTH120
    where, line = file, 0
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(folder):
            where, line = frame.filename, frame.lineno or 0
    if isinstance(error, SyntaxError) and error.filename:
        where, line = error.filename, error.lineno or 0
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return {"error": f"{type(error).__name__}: {text}" if text else type(error).__name__, "file": where, "line": line}


if __name__ == "__main__":
    main()
