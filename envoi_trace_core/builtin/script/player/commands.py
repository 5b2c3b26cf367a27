"""Shell commands: a deadline, a bounded output, and nothing left behind."""

from __future__ import annotations

import codecs
import subprocess
import threading
import time
from collections.abc import Callable

from .guard import Guard
from .inbox import Inbox, TurnInterruptedError

MAX_OUTPUT_CHARS = 200_000
"""What is kept of a command's output; the rest is counted and dropped."""
DRAIN_TIMEOUT_S = 1.0
"""How long output may still come from a process that left its group."""


class CommandEnd:
    """How a command ended."""

    def __init__(self, status: str, exit_code: int | None, cut_chars: int) -> None:
        self.status = status
        """`completed`, `failed`, `timed_out` or `interrupted`."""
        self.exit_code = exit_code
        """As a shell gives it; None when the command was killed by us."""
        self.cut_chars = cut_chars


class _Output:
    """Hands on decoded output up to the bound."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._left = MAX_OUTPUT_CHARS
        self.cut_chars = 0

    def take(self, data: bytes, *, final: bool = False) -> None:
        text = self._decoder.decode(data, final)
        kept = text[: self._left]
        self._left -= len(kept)
        self.cut_chars += len(text) - len(kept)
        if kept:
            self._tell(kept)


def run_command(
    command: str, *, cwd: str, timeout_s: float, guard: Guard, inbox: Inbox, tell: Callable[[str], None]
) -> CommandEnd:
    """Run a shell command to its end; what it left running in its group is killed.

    Args:
        command: For `sh -c`.
        cwd: Where.
        timeout_s: After that the whole group is killed.
        guard: Starts it.
        inbox: Waits for it, and ends it when the turn is interrupted.
        tell: Gets the output (stdout and stderr as they come) piece by piece.
    """
    process = guard.start(
        ["sh", "-c", command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = _Output(tell)
    readers = [
        threading.Thread(target=_read, args=(process, inbox), daemon=True),
        threading.Thread(target=_reap, args=(process, inbox), daemon=True),
    ]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + timeout_s
    status = "completed"
    try:
        while True:
            found = inbox.wait(process, deadline - time.monotonic())
            if found is None:
                break
            output.take(found)
    except TimeoutError:
        status = "timed_out"
    except TurnInterruptedError:
        status = "interrupted"
    guard.end(process)
    if status == "completed":
        _drain(readers[0], process, inbox, output)
    output.take(b"", final=True)
    if status != "completed":
        return CommandEnd(status, None, output.cut_chars)
    code = process.returncode
    return CommandEnd("completed" if code == 0 else "failed", code if code >= 0 else 128 - code, output.cut_chars)


def _drain(reader: threading.Thread, process: object, inbox: Inbox, output: _Output) -> None:
    """Take what the command wrote just before its end."""
    reader.join(DRAIN_TIMEOUT_S)
    while True:
        try:
            found = inbox.wait(process, 0)
        except (TimeoutError, TurnInterruptedError):
            return
        output.take(found or b"")


def _read(process: subprocess.Popen[bytes], inbox: Inbox) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        while True:
            data = stream.read1(65536)  # type: ignore[attr-defined]
            if not data:
                return
            inbox.post(process, data)


def _reap(process: subprocess.Popen[bytes], inbox: Inbox) -> None:
    process.wait()
    inbox.post(process, None)
