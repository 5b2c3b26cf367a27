"""What the driver says: one JSON object a line on stdout, and a small file with where it stands."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


class Output:
    """Every line in one go, so that a killed driver leaves no half line in the middle."""

    def __init__(self, state_file: Path) -> None:
        self._file = state_file
        self._lock = threading.Lock()
        self._written = 0
        self._state: dict[str, Any] = {"turn_id": None, "last_turn_id": None, "turn_ended_at": 0}

    def line(self, text: str) -> None:
        """Write a native event as it is."""
        data = text.encode("utf-8", "replace") + b"\n"
        with self._lock:
            self._written += len(data)
            while data:
                data = data[os.write(1, data) :]

    def say(self, kind: str, **fields: Any) -> None:
        """Write an event of our own."""
        self.line(json.dumps({"type": f"envoi.{kind}", "properties": fields}, ensure_ascii=False))

    def begin_turn(self, turn_id: str) -> None:
        """A turn is in flight."""
        self._save(turn_id=turn_id, last_turn_id=turn_id)
        self.say("turn.started", turn_id=turn_id)

    def end_turn(self, turn_id: str, status: str, error: dict[str, Any] | None = None) -> None:
        """A turn is over: `completed`, `failed` or `aborted`."""
        self.say("turn.ended", turn_id=turn_id, status=status, error=error)
        self._save(turn_id=None, turn_ended_at=self._written)

    def _save(self, **changes: Any) -> None:
        self._state.update(changes)
        aside = self._file.with_suffix(".tmp")
        aside.write_text(json.dumps(self._state), encoding="utf-8")
        aside.replace(self._file)
