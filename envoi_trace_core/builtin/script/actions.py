"""Reads a `script.jsonl` and checks all of it, so that a mistake is found before anything runs.

The actions are those of the design's table; each line holds exactly one, with the fields that belong to it.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from envoi_trace_core.errors import UsageError

SCRIPT_NAME = "script.jsonl"

JsonObject = dict[str, Any]
Check = Callable[[Any], str | None]
"""Says what a value should have been; None when it is right."""


def script_path(task_dir: Path, option: Path | None) -> Path:
    """The script that is to be played: the option's, else the task's own.

    Raises:
        UsageError: There is no such file.
    """
    path = option if option is not None else task_dir / SCRIPT_NAME
    if path.is_file():
        return path
    if option is not None:
        raise UsageError(f"there is no script {path}", mend="name a file: --agent-opt script=PATH")
    raise UsageError(
        f"the script agent has nothing to play: there is no {SCRIPT_NAME} in {task_dir}",
        mend="write one, or name another: --agent-opt script=PATH",
    )


def load_script(path: Path) -> list[JsonObject]:
    """The actions of a script, checked, in order. Empty lines are skipped.

    Raises:
        UsageError: It can't be read, or a line is no action; names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the script {path} can't be read: {error}") from error
    actions: list[JsonObject] = []
    has_part = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        problem, action = _read_line(line)
        if problem is None and "usage" in action and not has_part:
            problem = "'usage' belongs to the part before it, and there is none"
        if problem is not None:
            raise UsageError(f"{path}:{number}: {problem}", mend="mend that line of the script")
        has_part = has_part or not action.keys().isdisjoint(MAKES_PART)
        actions.append(action)
    if not actions:
        raise UsageError(f"the script {path} holds no action", mend='write at least one line: {"text": "hello"}')
    return actions


def _read_line(line: str) -> tuple[str | None, JsonObject]:
    """What is wrong with a line (None: nothing), and its action."""
    try:
        value = json.loads(line, object_pairs_hook=_unique)
        line.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # lone surrogates are a ValueError too
        return f"not a line of JSON: {error}", {}
    if not isinstance(value, dict):
        return "an action is a JSON object", {}
    return _problem(value), value


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _problem(action: JsonObject) -> str | None:
    names = [key for key in action if key in ACTIONS]
    if len(names) > 1:
        return f"one action a line, not {' and '.join(map(repr, names))}"
    if not names:
        return _unknown("action", next(iter(action), ""), ACTIONS)
    name = names[0]
    fields = ACTIONS[name]
    for key, value in action.items():
        if key not in fields:
            return _unknown(f"field of {name!r}", key, fields)
        expected = fields[key](value)
        if expected is not None:
            return f"{key!r} must be {expected}"
    missing = REQUIRED.get(name, frozenset()) - action.keys()
    return f"{name!r} needs {', '.join(sorted(map(repr, missing)))}" if missing else None


def _unknown(what: str, key: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(known)}."
    return f"unknown {what} {key!r}.{hint}"


# -- checks of values -----------------------------------------------------------------------------


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "a text that is not empty"


def _any_text(value: Any) -> str | None:
    return None if isinstance(value, str) else "a text"


def _command(value: Any) -> str | None:
    return None if _text(value) is None and "\0" not in value else "a shell command"


def _path(value: Any) -> str | None:
    right = _text(value) is None and "\0" not in value and not value.endswith("/")
    if right and not value.startswith("/") and ".." not in value.split("/"):
        return None
    return "the path of a file, relative to the workspace and within it"


def _true(value: Any) -> str | None:
    return None if value is True else "true"


def _bool(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _deadline(value: Any) -> str | None:
    return None if _is_number(value) and 0 < value <= MAX_SECONDS else f"a number of seconds, up to {MAX_SECONDS}"


def _duration(value: Any) -> str | None:
    return None if _is_number(value) and 0 <= value <= MAX_SECONDS else f"a number of seconds, up to {MAX_SECONDS}"


def _usage(value: Any) -> str | None:
    if not isinstance(value, dict) or not value:
        return "an object of token counts and a cost"
    for key, number in value.items():
        if key == "cost_usd":
            if not (_is_number(number) and number >= 0):
                return "an object in which 'cost_usd' is a number of US dollars"
        elif key not in TOKEN_COUNTS:
            return f"an object of {', '.join(TOKEN_COUNTS)} and cost_usd, without {key!r}"
        elif not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**53:
            return f"an object in which {key!r} is a count of tokens"
    return None


MAX_SECONDS = 7 * 24 * 3600
TOKEN_COUNTS = ("input", "cached_input", "output", "reasoning", "total")

ACTIONS: dict[str, dict[str, Check]] = {
    "reasoning": {"reasoning": _text},
    "text": {"text": _text},
    "run": {"run": _command, "timeout_s": _deadline},
    "write": {"write": _path, "content": _any_text},
    "patch": {"patch": _text},
    "run_tests": {"run_tests": _any_text},
    "sleep": {"sleep": _duration},
    "turn": {"turn": _true},
    "usage": {"usage": _usage},
    "fail": {"fail": _text, "once": _bool},
}
"""Each action with its fields and what they must be."""
REQUIRED = {"write": frozenset({"content"})}
MAKES_PART = frozenset({"reasoning", "text", "run", "write", "patch", "run_tests"})
