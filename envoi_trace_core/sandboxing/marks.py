"""How a command's own end is told apart from the end of its outputs, and how it can be killed, in a cloud's sandbox.

A cloud's `exec` tells the end of a command when its outputs are closed, and what it left in its background keeps them
open; some can't kill what they started, or do not tell a missing command from a missing folder. So a command runs below
a small shell, in a session of its own, which marks the outputs: with its process group before the command, and with
the exit code after it.
"""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Sequence

import attrs

MAX_MARK_BYTES = 64
NO_INPUT = "/dev/null"

# The command's own errors go to fd 9's copy; what the shell itself would say of a signal ("Killed") goes nowhere.
WRAPPER = """
token=$1 cwd=$2 input=$3 words=$4; shift 4
exec 9>&2 2>/dev/null
if [ -n "$words" ]; then . "$words"; rm -f -- "$words"; fi
cd -- "$cwd" || { printf '%snocwd\\n' "$token" >&9; exit 1; }
command -v -- "$1" >/dev/null || { printf '%snocommand\\n' "$token" >&9; exit 1; }
if [ -n "$input" ]; then
    exec 0<"$input" || exit 1
    [ "$input" = /dev/null ] || rm -f -- "$input"
fi
printf '%sstart %s\\n' "$token" "$$" >&9
(exec "$@" 2>&9 9>&-)
code=$?
printf '%send\\n' "$token"
printf '%send %s\\n' "$token" "$code" >&9
exit "$code"
"""


@attrs.frozen
class Mark:
    """What the shell said: `start PID`, `end CODE`, `nocwd`, `nocommand`."""

    words: tuple[str, ...]


def new_token() -> str:
    """Begins every mark of one command; no output holds it by accident."""
    return f"\x1e{uuid.uuid4().hex}"


def wrapped(
    argv: Sequence[str], *, token: str, cwd: str, input_path: str = NO_INPUT, words_path: str = ""
) -> list[str]:
    """The command in a session of its own, so that it can be killed with all that it started.

    Args:
        argv: The command; empty when `words_path` holds it.
        token: Of the marks.
        cwd: Where it runs.
        input_path: A file that it reads, which is removed; empty for what is fed to the shell.
        words_path: A file of `words_file`, which is removed; for a command line that is longer than the cloud takes.
    """
    return ["setsid", "-w", "sh", "-c", WRAPPER, "envoi-trace", token, cwd, input_path, words_path, *argv]


def words_file(argv: Sequence[str]) -> bytes:
    """A command line as a file for `wrapped`."""
    return f"set -- {shlex.join(argv)}\n".encode(errors="surrogateescape")


class MarkedOutput:
    """Splits one output into data and marks, whatever the pieces in which it comes."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._held = b""

    def feed(self, data: bytes) -> list[bytes | Mark]:
        """Take a piece; gives what is sure by now, in order."""
        self._held = self._held + data if self._held else data
        found: list[bytes | Mark] = []
        longest = MAX_MARK_BYTES + len(self._token)
        while (at := self._held.find(self._token)) >= 0:
            if at:
                found.append(self._held[:at])
                self._held = self._held[at:]
            end = self._held.find(b"\n", 0, longest)
            if end < 0 and len(self._held) < longest:
                return found
            if end < 0:  # someone else wrote the token
                found.append(self._held[:1])
                self._held = self._held[1:]
                continue
            found.append(Mark(tuple(self._held[len(self._token) : end].decode("ascii", "replace").split())))
            self._held = self._held[end + 1 :]
        sure = len(self._held) - self._overlap()
        if sure:
            found.append(self._held[:sure])
            self._held = self._held[sure:]
        return found

    def rest(self) -> bytes:
        """What is still held when the output has ended."""
        held, self._held = self._held, b""
        return held

    def _overlap(self) -> int:
        """How many bytes at the end may be the beginning of a mark."""
        first = max(0, len(self._held) - len(self._token) + 1)
        at = self._held.find(self._token[:1], first)
        while at >= 0:
            if self._token.startswith(self._held[at:]):
                return len(self._held) - at
            at = self._held.find(self._token[:1], at + 1)
        return 0
