"""Runs a task's own code (`params.py`, `task.py`) in a process of its own, so that nothing of it stays in this one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from envoi_trace_core.errors import UsageError

TIMEOUT_S = 120.0
MAX_ANSWER_BYTES = 32 * 1024 * 1024


@attrs.frozen(kw_only=True)
class CodeResult:
    """What a task's function gave."""

    value: Any
    """As JSON has it: a tuple came as a list."""
    taken: frozenset[str]
    """The user's parameters that the function took as arguments."""


def call_task_code(
    file: Path, function: str, overrides: Mapping[str, str], *, timeout_s: float = TIMEOUT_S
) -> CodeResult:
    """Call a function, sync or async, of a file; parameters that it names are handed to it.

    What it prints is dropped. The folder of the file stands on its `sys.path` and is its working directory; nothing is
    written there (no `__pycache__`).

    Raises:
        UsageError: It raised, hung, is missing, or gave what is no JSON; the message has file and line.
    """
    child = Path(__file__).with_name("task_code_child.py")
    words = [sys.executable, str(child), str(file.absolute()), function, json.dumps(dict(overrides))]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    # Files, not pipes: a process that the code leaves behind would hold a pipe open.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=errors,
            cwd=file.absolute().parent,
            env=environment,
            start_new_session=True,
        ) as process:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise UsageError(
                    f"{file}: {function}() had not ended after {timeout_s:g} s", mend="make it end, or end sooner"
                ) from None
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        return _result(file, function, _start_of(answer, MAX_ANSWER_BYTES + 1), errors, process.returncode)


def _result(file: Path, function: str, text: bytes, errors: BinaryIO, status: int) -> CodeResult:
    if len(text) > MAX_ANSWER_BYTES:
        raise UsageError(f"{file}: {function}() gave more than {MAX_ANSWER_BYTES // 1024**2} MiB", mend="give less")
    try:
        answer = json.loads(text)
    except ValueError:
        last = _start_of(errors, 65536).decode(errors="replace").strip().splitlines()[-1:]
        raise UsageError(
            f"{file}: {function}() ended its process with status {status}{': ' + last[0] if last else ''}",
            mend="let it return, and raise when something is wrong",
        ) from None
    if "value" in answer:
        return CodeResult(value=answer["value"], taken=frozenset(answer["taken"]))
    if "missing" in answer:
        raise UsageError(f"{file} has no function {function}()", mend=f"write `def {function}():` in it")
    if "not_json" in answer:
        raise UsageError(
            f"{file}: {function}() gave a {answer['type']} that JSON can't hold: {answer['not_json']}",
            mend="give texts, numbers, true, false, None, lists and dicts",
        )
    line = f", line {answer['line']}" if answer["line"] else ""
    raise UsageError(f"{answer['file']}{line}: {answer['error']}", mend=f"mend {function}()")


def _start_of(file: BinaryIO, size: int) -> bytes:
    file.seek(0)
    return file.read(size)
