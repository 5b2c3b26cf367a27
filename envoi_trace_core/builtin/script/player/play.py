"""Plays one action after the other: act, checkpoint, remember, tell. In that order."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commands import run_command
from .files import RefusedError, apply_patch, patched_paths, write_file
from .guard import Guard
from .inbox import Inbox, TurnInterruptedError
from .mcp import McpClient, McpError
from .state import State

Event = dict[str, Any]
HOOK_TIMEOUT_S = 300.0
DEFAULT_TIMEOUT_S = 120.0
DELTA_CHARS = 2000
"""A text is told in pieces of this length, as a model's would be."""
MAKES_ITEM = ("reasoning", "text", "run", "write", "patch", "run_tests")
NOTHING_LEFT = "the script has nothing left to play"


@dataclass
class Config:
    """What the session tells the player."""

    session_id: str
    workspace: str
    checkpoint_command: list[str]
    mcp_servers: list[dict[str, Any]]
    """Each with `command` and `tool_timeout_s`."""


class Player:
    """Plays turns."""

    def __init__(
        self,
        config: Config,
        actions: list[Event],
        state: State,
        folder: Path,
        guard: Guard,
        inbox: Inbox,
        emit: Callable[[Event], None],
        version: str,
    ) -> None:
        self._config = config
        self._actions = actions
        self._state = state
        self._folder = folder
        self._guard = guard
        self._inbox = inbox
        self._emit = emit
        self._version = version
        self._mcp: tuple[McpClient, float] | None = None

    def begin_turn(self, turn_id: str) -> None:
        """Take up a prompt."""
        self._state.turn_id = turn_id
        self._state.turns += 1
        self._remember({"type": "turn.started", "turn_id": turn_id, "turn": self._state.turns})
        if self._state.next_action >= len(self._actions):
            self._end_turn("turn.failed", error={"message": NOTHING_LEFT})

    def play_turn(self) -> bool:
        """Play until the turn ends; False when the process is to die."""
        while self._state.turn_id is not None:
            index = self._state.next_action
            if self._inbox.interrupted:
                self._end_turn("turn.interrupted")
            elif index >= len(self._actions):
                self._end_turn("turn.completed")
            elif "fail" in self._actions[index]:
                if not self._survives(index):
                    return False
            else:
                self._play(index, self._actions[index])
        return True

    def _end_turn(self, kind: str, **more: Any) -> None:
        turn_id, self._state.turn_id = self._state.turn_id, None
        self._remember({"type": kind, "turn_id": turn_id, "turn": self._state.turns, **more})

    def _remember(self, event: Event) -> None:
        """Write down where the script stands, then tell."""
        event["next_action"] = self._state.next_action
        self._state.pending = [event]
        self._state.save(self._folder)
        self._emit(event)

    def _survives(self, index: int) -> bool:
        """Whether an action that is to fail has done so before."""
        action = self._actions[index]
        if index in self._state.failed_once:
            self._state.next_action = index + 1
            return True
        if action.get("once"):
            self._state.failed_once.append(index)
            self._state.next_action = index + 1
        self._remember({"type": "error", "message": action["fail"]})
        sys.stderr.write(action["fail"] + "\n")
        return False

    # -- actions ----------------------------------------------------------------------------------

    def _play(self, index: int, action: Event) -> None:
        if "turn" in action:
            self._state.next_action = index + 1
            self._end_turn("turn.completed")
            return
        if "sleep" in action:
            self._sleep(action["sleep"])
            self._state.next_action = index + 1
            self._state.save(self._folder)
            return
        if "usage" in action:
            self._state.next_action = index + 1
            self._remember(self._usage(index, action["usage"]))
            return
        self._play_item(index, action)

    def _sleep(self, seconds: float) -> None:
        try:
            self._inbox.wait(self, seconds)
        except (TimeoutError, TurnInterruptedError):
            return

    def _usage(self, index: int, usage: Event) -> Event:
        item = next(at for at in range(index - 1, -1, -1) if any(name in self._actions[at] for name in MAKES_ITEM))
        event = {"type": "usage", "usage_id": f"{self._config.session_id}-u{index + 1}", "item_id": self._item_id(item)}
        event.update({name if name == "cost_usd" else f"{name}_tokens": value for name, value in usage.items()})
        return event

    def _item_id(self, index: int) -> str:
        """The same whenever the action is played, so that work done again is known as such."""
        return f"{self._config.session_id}-{index + 1}"

    def _play_item(self, index: int, action: Event) -> None:
        play = {
            "reasoning": self._say,
            "text": self._say,
            "run": self._run,
            "write": self._write,
            "patch": self._patch,
            "run_tests": self._run_tests,
        }
        name = next(name for name in MAKES_ITEM if name in action)
        item: Event = {"id": self._item_id(index), "kind": KINDS[name], "action": index + 1}
        started_at = time.monotonic()
        more = play[name](item, action)
        duration_ms = round((time.monotonic() - started_at) * 1000)
        if name not in ("reasoning", "text"):
            self._checkpoint(item["id"])
        self._state.next_action = index + 1
        self._remember({"type": "item.completed", "item": {**item, "duration_ms": duration_ms, **more}})

    def _start(self, item: Event, **about: Any) -> None:
        self._emit({"type": "item.started", "item": {**item, **about}})

    def _tell(self, item: Event, field: str, text: str) -> None:
        for start in range(0, len(text), DELTA_CHARS):
            piece = text[start : start + DELTA_CHARS]
            self._emit({"type": "item.delta", "item_id": item["id"], "field": field, "text": piece})

    def _say(self, item: Event, action: Event) -> Event:
        self._start(item)
        self._tell(item, "text", action["reasoning"] if "reasoning" in action else action["text"])
        return {"status": "completed"}

    def _run(self, item: Event, action: Event) -> Event:
        timeout_s = action.get("timeout_s", DEFAULT_TIMEOUT_S)
        self._start(item, command=action["run"], timeout_s=timeout_s)
        end = run_command(
            action["run"],
            cwd=self._config.workspace,
            timeout_s=timeout_s,
            guard=self._guard,
            inbox=self._inbox,
            tell=lambda text: self._tell(item, "output", text),
        )
        return {"status": end.status, "exit_code": end.exit_code, "cut_chars": end.cut_chars}

    def _write(self, item: Event, action: Event) -> Event:
        self._start(item, path=action["write"])
        try:
            return {"status": "completed", "size_bytes": write_file(self._config.workspace, **_as_write(action))}
        except RefusedError as error:
            return {"status": "failed", "error": str(error)}

    def _patch(self, item: Event, action: Event) -> Event:
        self._start(item, patch=action["patch"], paths=patched_paths(action["patch"]))
        try:
            return {"status": "completed", "output": apply_patch(self._config.workspace, action["patch"])}
        except RefusedError as error:
            return {"status": "failed", "error": str(error)}

    def _run_tests(self, item: Event, action: Event) -> Event:
        self._start(item, tool="run_tests", arguments={"path": action["run_tests"]})
        try:
            client, timeout_s = self._client()
            passed, text = client.call(action["run_tests"], timeout_s)
        except TurnInterruptedError:
            return {"status": "interrupted"}
        except McpError as error:
            return {"status": "failed", "error": str(error)}
        self._tell(item, "output", text)
        return {"status": "completed" if passed else "failed"}

    def _client(self) -> tuple[McpClient, float]:
        """The server that offers `run_tests`, started when it is first needed."""
        if self._mcp is not None:
            if self._mcp[0].is_alive:
                return self._mcp
            self._mcp[0].close()
            self._mcp = None
        for server in self._config.mcp_servers:
            client = McpClient(server["command"], self._version, self._guard, self._inbox)
            try:
                client.initialize()
                if client.has_tool():
                    self._mcp = client, server["tool_timeout_s"]
                    return self._mcp
            finally:
                if self._mcp is None:
                    client.close()
        raise McpError("no MCP server here offers run_tests")

    def _checkpoint(self, call_id: str) -> None:
        """Record the workspace, before the next action can change it."""
        if not self._config.checkpoint_command:
            return
        problem = self._hook_problem([*self._config.checkpoint_command, call_id])
        if problem is not None:
            self._emit({"type": "hook.failed", "item_id": call_id, "message": problem})

    def _hook_problem(self, argv: list[str]) -> str | None:
        null, pipe = subprocess.DEVNULL, subprocess.PIPE
        try:
            hook = self._guard.start(argv, cwd=self._config.workspace, stdin=null, stdout=null, stderr=pipe)
        except OSError as error:
            return f"it could not be started: {error}"
        try:
            _, said = hook.communicate(timeout=HOOK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"it took longer than {HOOK_TIMEOUT_S:g} s"
        finally:
            self._guard.end(hook)
        if hook.returncode == 0:
            return None
        return f"it ended with status {hook.returncode}: {said[-2000:].decode(errors='replace').strip()}"


KINDS = {
    "reasoning": "reasoning",
    "text": "message",
    "run": "command",
    "write": "file_write",
    "patch": "file_patch",
    "run_tests": "tool_call",
}


def _as_write(action: Event) -> dict[str, str]:
    return {"path": action["write"], "content": action["content"]}
