"""Settings from outside the command line: the environment, `.env`, `pyproject.toml`, `envoi-trace.toml`.

Strongest first: options, `ENVOI_TRACE_<OPTION>`, `.env` in the working directory, then `envoi-trace.toml` or, when
that file is not there, `[tool.envoi-trace]` in `pyproject.toml`, then built-in defaults. A key is an option's name,
with `-` or `_`. What this module gives becomes typer's `default_map`, so options win by themselves.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal

import attrs

from envoi_trace_core.errors import UsageError
from envoi_trace_core.options import FALSE_WORDS, TRUE_WORDS
from envoi_trace_core.suggest import did_you_mean

VARIABLE_PREFIX = "ENVOI_TRACE_"
CONFIG_FILE = "envoi-trace.toml"
PROJECT_FILE = "pyproject.toml"
PROJECT_TABLE = "envoi-trace"

Shape = Literal["value", "flag", "list"]
"""One value, true or false, or any number of values."""


@attrs.frozen(kw_only=True)
class Settings:
    """What was set outside the command line."""

    values: Mapping[str, Any] = attrs.field(factory=dict)
    """By option name, with `_`. A value is text, a flag a bool, a list a list of texts."""
    origins: Mapping[str, str] = attrs.field(factory=dict)
    """By option name: the variable or the file that set it."""


def load_env_file(directory: Path, environ: MutableMapping[str, str]) -> None:
    """Take the variables of a `.env` that are not set already.

    Raises:
        UsageError: It can't be read.
    """
    path = directory / ".env"
    if not path.is_file():
        return
    from dotenv import dotenv_values

    try:
        values = dotenv_values(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}", mend="write it as UTF-8 text: NAME=value lines") from error
    for name, value in values.items():
        if value is not None:
            environ.setdefault(name, value)


def load_settings(directory: Path, environ: Mapping[str, str], known: Mapping[str, Shape]) -> Settings:
    """Read the configuration file and the environment.

    Args:
        directory: The working directory.
        environ: Its `ENVOI_TRACE_<OPTION>` count; an empty one counts as not set. Lists are split as a shell does.
        known: Every option, with the shape of its value.

    Raises:
        UsageError: The file is broken, has an unknown key, or a value of a wrong shape.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    table, file_name = _read_table(directory)
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(
                f"unknown key {key!r} in {file_name}."
                f"{did_you_mean(key.replace('_', '-'), [option.replace('_', '-') for option in known])}",
                mend="envoi-trace --help lists the options; a key is an option's name",
            )
        values[name] = _from_file(value, known[name], key, file_name)
        origins[name] = f"{key!r} in {file_name}"
    for name, shape in known.items():
        variable = VARIABLE_PREFIX + name.upper()
        text = environ.get(variable)
        if text:
            values[name] = _from_variable(text, shape, variable)
            origins[name] = variable
    return Settings(values=values, origins=origins)


def _read_table(directory: Path) -> tuple[Mapping[str, Any], str]:
    path = directory / CONFIG_FILE
    if path.is_file():
        return parse_toml(path), CONFIG_FILE
    path = directory / PROJECT_FILE
    where = f"[tool.{PROJECT_TABLE}] of {PROJECT_FILE}"
    # Another project's pyproject.toml, broken or not, is no business of ours.
    if not path.is_file() or PROJECT_TABLE.encode() not in path.read_bytes():
        return {}, where
    tools = parse_toml(path).get("tool", {})
    table = tools.get(PROJECT_TABLE, {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise UsageError(f"tool.{PROJECT_TABLE} in {path} is no table", mend=f"write [tool.{PROJECT_TABLE}]")
    return table, where


def parse_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: It is broken (the message names the line), or can't be read.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no valid TOML: {error}", mend="mend that line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}", mend="write it as UTF-8 text") from error


def _from_file(value: Any, shape: Shape, key: str, file_name: str) -> Any:
    def wrong(expected: str) -> UsageError:
        return UsageError(
            f"{key!r} in {file_name} expects {expected}, not {value!r:.80}", mend=f"set {key} = {expected}"
        )

    if shape == "flag":
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if shape == "list":
        if isinstance(value, dict):  # agent-opt = { effort = "high" }
            return [f"{name}={_text(item)}" for name, item in value.items()]
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise wrong("a list of texts")
        return items
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong("one value")
    return str(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)


def _from_variable(text: str, shape: Shape, variable: str) -> Any:
    if shape == "flag":
        word = text.strip().lower()
        if word not in TRUE_WORDS | FALSE_WORDS:
            raise UsageError(f"{variable} expects true or false, not {text!r}", mend=f"{variable}=true, or unset it")
        return word in TRUE_WORDS
    if shape == "list":
        try:
            return shlex.split(text)
        except ValueError as error:
            raise UsageError(f"{variable} can't be split into words: {error}", mend="close the quote") from error
    return text
