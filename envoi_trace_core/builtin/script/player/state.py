"""Where the script stands: on disk after each action, so that a killed player goes on with the next one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STATE_NAME = "state.json"


@dataclass
class State:
    """The position in the script, and the events that tell of the newest change of it.

    The events are written down with the change and emitted after it: a player that was killed in between emits
    them again, and whoever reads them knows each by its id.
    """

    next_action: int = 0
    """Index of the action that is played next."""
    turn_id: str | None = None
    """The turn in flight; None between turns."""
    turns: int = 0
    """Turns begun so far."""
    failed_once: list[int] = field(default_factory=list)
    """Actions that were to fail once, and did."""
    pending: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> State:
        """The state in a folder; a new one when there is none."""
        path = folder / STATE_NAME
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def save(self, folder: Path) -> None:
        """Write it atomically; a power cut is not provided for, as the sandbox would not outlive one."""
        path = folder / STATE_NAME
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(draft, path)  # noqa: PTH105
