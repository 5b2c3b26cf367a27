"""A task: a folder with a prompt, in three tiers.

1. `en.md` (the language's file), or `prompt.md`: the prompt, with `{name}` placeholders.
2. Beside it `params.py` with `params()`: gives the parameters as a mapping.
3. `task.py` with `generate()`: gives `(prompt, params)`; it is taken before any of the others.

Both functions may be async, and may take arguments: a `--param` of an argument's name is handed over. Any other
`--param` goes over what the function gives. Which braces are placeholders says `envoi_trace_core.domain.prompts`;
that holds for a generated prompt too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.domain.content import absolute_folder, hash_folder
from envoi_trace_core.domain.prompts import render
from envoi_trace_core.domain.task_code import TIMEOUT_S, call_task_code
from envoi_trace_core.errors import UsageError
from envoi_trace_core.options import FALSE_WORDS, TRUE_WORDS
from envoi_trace_core.suggest import did_you_mean

MAX_PROMPT_BYTES = 4 * 1024 * 1024
TASK_CODE = "task.py"
PARAMS_CODE = "params.py"
ANY_LANGUAGE = "prompt.md"


@attrs.frozen(kw_only=True)
class Task:
    """What an agent is asked to do."""

    name: str
    """The folder's."""
    directory: Path
    """Absolute."""
    prompt: str
    """With its parameters in place."""
    params: Mapping[str, Any]
    """All that JSON can hold; the user's stand over the task's own."""
    content_hash: str
    """SHA-256 of the folder, whatever the parameters: 64 hexadecimal digits."""


@attrs.frozen(kw_only=True)
class _Template:
    text: str
    source: Path
    params: Mapping[str, Any]
    taken: frozenset[str]
    """Parameters of the user that the task's code took."""
    generated: bool


def load_task(path: Path, *, lang: str = "en", params: Mapping[str, str], code_timeout_s: float = TIMEOUT_S) -> Task:
    """Read a task, running its code if it has any.

    Args:
        path: Its folder.
        lang: Which prompt file: `<lang>.md`, then `prompt.md`.
        params: The user's; a value takes the type of the task's own (number, true or false).
        code_timeout_s: How long `params()` or `generate()` may take.

    Raises:
        UsageError: A file is missing or can't be read, the code raises or hangs, a placeholder has no parameter,
            or a parameter of the user has no effect.
    """
    directory = _folder(path)
    template = _template(directory, lang, params, code_timeout_s)
    merged = dict(template.params)
    for name, text in params.items():
        if name not in template.taken or name not in merged:
            merged[name] = _like(merged.get(name), text, name)
    rendered = render(template.text, merged, source=str(template.source))
    if not rendered.text.strip():
        raise UsageError(f"the prompt of {template.source} is empty", mend="say what the agent shall do")
    effective = rendered.used | template.taken | (frozenset() if template.generated else template.params.keys())
    for name in params:
        if name not in effective:
            known = sorted({*effective, *template.params})
            raise UsageError(
                f"--param {name}: the task {directory.name!r} makes no use of it.{did_you_mean(name, known)}",
                mend=f"its parameters: {', '.join(known) or 'none'}",
            )
    return Task(
        name=directory.name,
        directory=directory,
        prompt=rendered.text,
        params=merged,
        content_hash=_hash(directory),
    )


def _folder(path: Path) -> Path:
    directory = absolute_folder(path)
    if directory.is_dir():
        return directory
    if directory.exists():
        raise UsageError(f"{path} is a file; --task takes a task's folder", mend=f"--task {path.parent}")
    raise UsageError(f"there is no task folder {path}", mend="--task PATH, a folder with en.md, prompt.md or task.py")


def _template(directory: Path, lang: str, params: Mapping[str, str], timeout_s: float) -> _Template:
    code = directory / TASK_CODE
    if code.is_file():
        result = call_task_code(code, "generate", params, timeout_s=timeout_s)
        value = result.value
        if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)):
            raise UsageError(
                f"{code}: generate() must give (prompt, params), a text and a mapping",
                mend='return "...", {"name": value}',
            )
        return _Template(
            text=value[0],
            source=code,
            params=_mapping(value[1], code, "generate"),
            taken=result.taken,
            generated=True,
        )
    prompt = _prompt_file(directory, lang)
    code = directory / PARAMS_CODE
    if not code.is_file():
        return _Template(text=_read(prompt), source=prompt, params={}, taken=frozenset(), generated=False)
    result = call_task_code(code, "params", params, timeout_s=timeout_s)
    return _Template(
        text=_read(prompt),
        source=prompt,
        params=_mapping(result.value, code, "params"),
        taken=result.taken,
        generated=False,
    )


def _mapping(value: Any, code: Path, function: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(
            f"{code}: the parameters that {function}() gives must be a mapping, not {type(value).__name__}",
            mend='give {"name": value}',
        )
    return value


def _prompt_file(directory: Path, lang: str) -> Path:
    if not lang or "/" in lang or "\\" in lang or lang.startswith("."):
        raise UsageError(f"--lang {lang!r} is no language code", mend="--lang en")
    names = (f"{lang}.md", ANY_LANGUAGE)
    for name in names:
        if (directory / name).is_file():
            return directory / name
    others = sorted(path.stem for path in directory.glob("??.md") if path.is_file())
    mend = f"--lang {others[0]}" if others else f"write {directory / names[0]}"
    raise UsageError(
        f"the task {directory} has no prompt: looked for {TASK_CODE}, {names[0]} and {names[1]}"
        + (f" (there is {', '.join(f'{other}.md' for other in others)})" if others else ""),
        mend=mend,
    )


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_PROMPT_BYTES:
            raise UsageError(f"{path} has more than {MAX_PROMPT_BYTES // 1024**2} MiB", mend="write a shorter prompt")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}", mend="save it as UTF-8"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}", mend="ls -l shows its permissions") from error


def _hash(directory: Path) -> str:
    try:
        return hash_folder(directory)
    except OSError as error:
        raise UsageError(f"{error.filename} can't be read: {error.strerror}", mend="ls -l shows why") from error


def _like(own: Any, text: str, name: str) -> Any:
    """The user's text as the type of the task's own value."""
    if isinstance(own, bool):
        if text.lower() not in TRUE_WORDS | FALSE_WORDS:
            raise UsageError(f"--param {name} expects true or false, not {text!r}", mend=f"--param {name}=true")
        return text.lower() in TRUE_WORDS
    if isinstance(own, int | float):
        try:
            number = type(own)(text)
        except ValueError:
            expected = "a whole number" if isinstance(own, int) else "a number"
            raise UsageError(f"--param {name} expects {expected}, not {text!r}", mend=f"--param {name}={own}") from None
        if math.isfinite(number):
            return number
        raise UsageError(f"--param {name} expects a finite number, not {text!r}", mend=f"--param {name}={own}")
    return text
