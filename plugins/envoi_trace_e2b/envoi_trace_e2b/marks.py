"""How a command's own end is told apart from the end of its outputs.

envd tells the end of a process when its outputs are closed, and what a command left in its background keeps them open.
So a command runs below a small shell that marks the outputs: before it, and after it with its exit code.
"""

from __future__ import annotations

import uuid

import attrs

MAX_MARK_BYTES = 64

# The command's own errors go to fd 9's copy; what the shell itself would say of a signal ("Killed") goes nowhere.
WRAPPER = """
token=$1 cwd=$2 input=$3; shift 3
exec 9>&2 2>/dev/null
cd -- "$cwd" || { printf '%snocwd\\n' "$token" >&9; exit 1; }
command -v -- "$1" >/dev/null || { printf '%snocommand\\n' "$token" >&9; exit 1; }
if [ -n "$input" ]; then
    exec 0<"$input" || exit 1
    rm -f -- "$input"
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


def wrapped(argv: list[str], *, token: str, cwd: str, input_path: str = "") -> list[str]:
    """The command in a session of its own, so that it can be killed with all that it started."""
    return ["setsid", "-w", "sh", "-c", WRAPPER, "envoi-trace", token, cwd, input_path, *argv]


class MarkedOutput:
    """Splits one output into data and marks, whatever the pieces in which it comes."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._held = b""

    def feed(self, data: bytes) -> list[bytes | Mark]:
        """Take a piece; gives what is sure by now, in order."""
        self._held += data
        found: list[bytes | Mark] = []
        while (at := self._held.find(self._token)) >= 0:
            if at:
                found.append(self._held[:at])
                self._held = self._held[at:]
            end = self._held.find(b"\n", 0, MAX_MARK_BYTES + len(self._token))
            if end < 0 and len(self._held) < MAX_MARK_BYTES + len(self._token):
                return found
            if end < 0:  # someone else wrote the token
                found.append(self._held[:1])
                self._held = self._held[1:]
                continue
            found.append(Mark(tuple(self._held[len(self._token) : end].decode("ascii", "replace").split())))
            self._held = self._held[end + 1 :]
        keep = self._overlap()
        if sure := self._held[: len(self._held) - keep]:
            found.append(sure)
        self._held = self._held[len(self._held) - keep :]
        return found

    def rest(self) -> bytes:
        """What is still held when the output has ended."""
        held, self._held = self._held, b""
        return held

    def _overlap(self) -> int:
        """How many bytes at the end may be the beginning of a mark."""
        at = self._held.rfind(self._token[:1], max(0, len(self._held) - len(self._token) + 1))
        while at >= 0:
            if self._token.startswith(self._held[at:]):
                return len(self._held) - at
            at = self._held.rfind(self._token[:1], max(0, len(self._held) - len(self._token) + 1), at)
        return 0
