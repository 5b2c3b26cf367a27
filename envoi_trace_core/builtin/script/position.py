"""Where a session stands: in the player's output, and in the script."""

from __future__ import annotations

import json
from typing import Any

import attrs

JsonObject = dict[str, Any]


@attrs.frozen
class Position:
    """What a resume needs to know of the last event that was recorded."""

    process_number: int
    """A session may go through several processes, one after the other; the first is 1, and 0 stands before it."""
    offset: int
    """Bytes of that process's output that were read."""
    next_action: int
    """Index of the first action whose end is not in what was read."""

    def __str__(self) -> str:
        return f"{self.process_number}:{self.offset}:{self.next_action}"

    @classmethod
    def parse(cls, text: str | None) -> Position:
        """The beginning when there is none, or it is not one of ours."""
        fields = (text or "").split(":")
        if len(fields) != 3 or not all(field.isascii() and field.isdecimal() for field in fields):
            return cls(0, 0, 0)
        return cls(*(int(field) for field in fields))


@attrs.frozen(kw_only=True)
class PlayerState:
    """The part of the player's state that the session reads and writes; it comes out of a sandbox."""

    next_action: int = 0
    turn_id: str | None = None
    turns: int = 0
    failed_once: tuple[int, ...] = ()
    untold_end: str | None = None
    """A turn whose end the player is about to tell, or told last."""

    @classmethod
    def parse(cls, data: bytes | None) -> PlayerState:
        """A fresh one for what is no state."""
        try:
            value = json.loads(data or b"")
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(value, dict):
            return cls()
        turn_id, failed, pending = value.get("turn_id"), value.get("failed_once"), value.get("pending")
        untold = [PlayerEvent.of(event) for event in (pending if isinstance(pending, list) else [])]
        return cls(
            next_action=_count(value.get("next_action")),
            turn_id=turn_id if isinstance(turn_id, str) else None,
            turns=_count(value.get("turns")),
            failed_once=tuple(_count(index) for index in failed) if isinstance(failed, list) else (),
            untold_end=next((event.turn_id for event in untold if event.ends_turn), None),
        )

    def to_json(self) -> bytes:
        """As the player reads it, with nothing pending."""
        known = attrs.asdict(self, filter=lambda field, _: field.name != "untold_end")
        return json.dumps({**known, "failed_once": list(self.failed_once), "pending": []}).encode()


def without_turn(state: bytes) -> bytes:
    """A player's state with no turn in flight; what it has still to tell is kept."""
    try:
        value = json.loads(state)
    except (ValueError, RecursionError):
        value = None
    return json.dumps({**value, "turn_id": None}).encode() if isinstance(value, dict) else state


@attrs.frozen
class PlayerEvent:
    """What the session itself must know of a native event."""

    type: str
    turn_id: str | None
    next_action: int | None
    message: str | None

    @property
    def ends_turn(self) -> bool:
        """Whether the agent hands back with it."""
        return self.type in ("turn.completed", "turn.interrupted", "turn.failed")

    @classmethod
    def parse(cls, data: bytes) -> PlayerEvent:
        """Nothing known for what is no event."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        return cls.of(value)

    @classmethod
    def of(cls, value: object) -> PlayerEvent:
        """The same of an event that was read already."""
        event: JsonObject = value if isinstance(value, dict) else {}
        error = event.get("error")
        message = error.get("message") if isinstance(error, dict) else event.get("message")
        turn_id, next_action = event.get("turn_id"), event.get("next_action")
        return cls(
            str(event.get("type", "")),
            turn_id if isinstance(turn_id, str) else None,
            next_action if isinstance(next_action, int) and next_action >= 0 else None,
            message if isinstance(message, str) else None,
        )


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0
