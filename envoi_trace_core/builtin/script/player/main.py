"""Reads the player's configuration, and runs turn after turn.

Its folder holds `actions.json` (the script), `config.json` and `state.json`. Native events go to stdout, one
JSON object a line, each with `at`, the time:

    session.started  session_id, version, resumed
    turn.started     turn_id, turn
    item.started     item: id, kind, action and what it is about to do
    item.delta       item_id, field (`text` or `output`), text
    item.completed   item: id, kind, status, duration_ms, ...; next_action
    usage            usage_id, item_id, token counts, cost_usd; next_action
    hook.failed      item_id, message
    turn.completed, turn.interrupted, turn.failed (error)   turn_id, turn; next_action
    error            message; next_action. The player ends after it
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .guard import Guard
from .inbox import Inbox
from .play import Config, Player
from .state import State

VERSION = "1.0"


def emit(event: dict[str, Any]) -> None:
    """Write an event in one go: a killed player leaves no half line."""
    stamped = {"type": event["type"], "at": datetime.now(timezone.utc).isoformat(), **event}  # noqa: UP017
    data = json.dumps(stamped, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    while data:
        data = data[os.write(1, data) :]


def main() -> int:
    """Play until the input ends. Gives the exit status."""
    folder = Path(sys.argv[1])
    config = Config(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    actions = json.loads((folder / "actions.json").read_text(encoding="utf-8"))
    state = State.load(folder)
    guard = Guard()
    inbox = Inbox()
    resumed = state != State()
    emit({"type": "session.started", "session_id": config.session_id, "version": VERSION, "resumed": resumed})
    for event in state.pending:
        emit(event)
    inbox.listen()
    player = Player(config, actions, state, folder, guard, inbox, emit, VERSION)
    if state.turn_id is not None and not player.play_turn():
        return 1
    while True:
        turn_id = inbox.next_prompt()
        if turn_id is None:
            return 0
        player.begin_turn(turn_id)
        if not player.play_turn():
            return 1


def run() -> None:
    """Play, and end at once: the thread that waits for input can't be stopped in an orderly way."""
    status = 1
    try:
        status = main()
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)
