"""Where a session stands in its drivers' output, and what it keeps of where the driver stands."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs

_POSITION = re.compile(r"opencode-([0-9a-f]{8})-([0-9]{1,9}):([0-9]{1,18})")


@attrs.frozen
class Position:
    """The drivers of one home follow each other, numbered from 1."""

    home_id: str
    number: int
    offset: int
    """Bytes of that driver's output that were read."""

    def __str__(self) -> str:
        return f"{self.process_name}:{self.offset}"

    @property
    def process_name(self) -> str:
        """Of the detached process."""
        return f"opencode-{self.home_id}-{self.number}"

    @classmethod
    def parse(cls, text: str | None) -> Position | None:
        """None when there is none, or it is not one of ours."""
        found = _POSITION.fullmatch(text or "")
        return cls(found[1], int(found[2]), int(found[3])) if found else None

    def next_process(self) -> Position:
        """The beginning of the one that follows."""
        return Position(self.home_id, self.number + 1, 0)


@attrs.frozen(kw_only=True)
class DriverState:
    """The driver's `state.json`; it comes out of a sandbox."""

    turn_id: str | None = None
    """Of the turn in flight."""
    last_turn_id: str | None = None
    """Of the newest turn, in flight or over."""
    turn_ended_at: int = 0
    """How much it had written when its newest turn had ended, in bytes."""

    @classmethod
    def parse(cls, data: bytes | None) -> DriverState:
        """A fresh one for what is no state."""
        try:
            value: Any = json.loads(data or b"")
        except (ValueError, RecursionError):
            return cls()
        value = value if isinstance(value, dict) else {}
        ended = value.get("turn_ended_at")
        return cls(
            turn_id=_text(value.get("turn_id")),
            last_turn_id=_text(value.get("last_turn_id")),
            turn_ended_at=ended if isinstance(ended, int) and ended >= 0 else 0,
        )


@attrs.frozen(kw_only=True)
class DriverEvent:
    """What a line of the driver's means to the session; of everything else only `kind` is set."""

    kind: str
    turn_id: str | None = None
    status: str | None = None
    session_id: str | None = None
    version: str | None = None
    message: str | None = None
    is_retryable: bool = False

    @classmethod
    def parse(cls, data: bytes) -> DriverEvent:
        """Read a line."""
        if not data.startswith(b'{"type": "envoi.'):  # as the driver writes them; OpenCode's begin otherwise
            return cls(kind="")
        try:
            value: Any = json.loads(data)
            about = value["properties"]
            error = about.get("error") if isinstance(about.get("error"), dict) else {}
            return cls(
                kind=str(value["type"]).removeprefix("envoi."),
                turn_id=_text(about.get("turn_id")),
                status=_text(about.get("status")),
                session_id=_text(about.get("session_id")),
                version=_text(about.get("version")),
                message=_text(error.get("message")) or _text(about.get("message")),
                is_retryable=error.get("retryable") is True,
            )
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return cls(kind="")


def prompt_id(command: bytes) -> str | None:
    """The turn id of a prompt as it was handed over to the driver."""
    try:
        value: Any = json.loads(command)
    except (ValueError, RecursionError):
        return None
    return _text(value.get("turn_id")) if isinstance(value, dict) else None


def _text(value: Any) -> str | None:
    return value[:4000] if isinstance(value, str) else None
