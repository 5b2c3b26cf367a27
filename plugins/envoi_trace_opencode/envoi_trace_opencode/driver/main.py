"""Drives one session of OpenCode: reads commands on stdin, writes events on stdout.

Its folder holds `config.json` (`Config`) and, while it starts, the named pipe `key`, through which the provider's
key comes. Commands, one JSON object a line: `prompt` (turn_id, text), `interrupt`, `exit`. Events are
OpenCode's own, and these, each with its `properties`:

    envoi.session.ready    session_id, version: prompts can come
    envoi.server.started   a server runs; what an earlier one left open is over
    envoi.server.ended     message
    envoi.stream.broken    the event stream broke off and is opened again
    envoi.turn.started     turn_id
    envoi.turn.ended       turn_id, status (completed, failed, aborted), error (name, message, status_code, retryable)
    envoi.failed           message: it could not start; the driver ends

Events go to a file, so nothing is lost while nobody reads: the orchestrator may die and come back.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import select
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .history import reconcile
from .output import Output
from .processes import SERVER_MARK_VARIABLE, Guard, keep_memory_private, kill_marked
from .proxy import PLACEHOLDER, Proxy
from .server import Server, ServerError, server_environment
from .stream import EventStream
from .turn import Turn

KEY_TIMEOUT_S = 120.0
MAX_KEY_BYTES = 65536
MCP_TIMEOUT_S = 60.0
EXIT_S = 15.0


class Driver:
    """The session: its server, which may die and be started again, and its turns, one at a time."""

    def __init__(
        self, folder: Path, config: dict[str, Any], session_id: str | None, output: Output, guard: Guard
    ) -> None:
        self._folder, self._config, self._output, self._guard = folder, config, output, guard
        self._server: Server | None = None
        self._stream: EventStream | None = None
        self._turn: Turn | None = None
        self._session_id = session_id
        self._commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._interrupts = 0
        self._lock = threading.Lock()

    def start(self, key: str) -> None:
        """Make everything ready for prompts.

        Raises:
            ServerError: The server does not start or does not do what it must.
        """
        self._proxy = Proxy(self._config["upstream"], key)
        self._start_server()
        self._output.say("session.ready", session_id=self._session_id, version=self._version)
        threading.Thread(target=self._read_commands, daemon=True).start()

    def _start_server(self) -> tuple[Server, EventStream]:
        config, provider = self._config["opencode"], self._config["provider"]
        config["provider"][provider]["options"]["baseURL"] = self._proxy.url
        auth = {provider: {"type": "api", "key": PLACEHOLDER}}
        environment = server_environment(str(self._folder / "home"), config, auth)
        environment.update(self._config["environment"])
        environment[SERVER_MARK_VARIABLE] = self._config["mark"]
        server = Server(
            self._config["binary"],
            self._folder,
            self._config["workspace"],
            environment,
            self._config["start_timeout_s"],
            self._guard,
        )
        self._server = server
        self._version = str((server.request("GET", "/global/health") or {}).get("version"))
        self._output.say("server.started", version=self._version)
        self._stream = stream = EventStream(server, self._output, self._note_status)
        if not stream.wait_connected():
            raise ServerError("opencode serve gives no events")
        self._check_mcp(server)
        if self._session_id is None:
            made = server.request("POST", "/session", {"title": self._config["title"]})
            self._session_id = str(made["id"])
        else:
            reconcile(server, stream, self._session_id)
        return server, stream

    def _check_mcp(self, server: Server) -> None:
        known = server.request("GET", "/mcp", timeout_s=MCP_TIMEOUT_S) or {}
        for name in self._config["opencode"].get("mcp", {}):
            about = known.get(name) or {}
            if about.get("status") != "connected":
                raise ServerError(f"the MCP server {name} does not work: {about.get('error') or about.get('status')}")

    def _note_status(self, properties: dict[str, Any]) -> None:
        turn = self._turn
        if turn is not None:
            turn.note_status(properties)

    # -- commands ---------------------------------------------------------------------------------

    def _read_commands(self) -> None:
        for line in sys.stdin.buffer:
            try:
                command = json.loads(line)
                kind = command["type"]
            except (ValueError, KeyError, TypeError):
                sys.stderr.write("a line of the input is no command\n")
                continue
            with self._lock:
                if kind in ("interrupt", "exit"):
                    self._interrupts += 1
                    if self._turn is not None:
                        self._turn.interrupt()
                command["interrupts"] = self._interrupts
            self._commands.put(command if kind != "exit" else None)
            if kind == "exit":
                return
        self._commands.put(None)

    def serve(self) -> None:
        """Play prompt after prompt until the input ends."""
        while (command := self._commands.get()) is not None:
            if command["type"] == "prompt":
                self._play(str(command.get("turn_id")), str(command.get("text")), command["interrupts"])

    def _play(self, turn_id: str, text: str, interrupts: int) -> None:
        turn = Turn(turn_id, self._output, self._config["retry_timeout_s"], self._config["mark"])
        self._output.begin_turn(turn_id)
        with self._lock:
            self._turn = turn
            if self._interrupts > interrupts:
                turn.interrupt()
        try:
            server, stream = self._server, self._stream
            if server is None or stream is None or not server.is_alive:
                server, stream = self._start_server()
            assert self._session_id is not None
            prompt = {"parts": [{"type": "text", "text": text}], "model": self._config["model"]}
            turn.play(server, stream, self._session_id, prompt)
        except (ServerError, OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            told = {"name": "ServerError", "message": str(error) or repr(error), "retryable": True}
            self._output.end_turn(turn_id, "failed", told)
        finally:
            self._turn = None

    def end_leftovers(self) -> None:
        """End what an earlier driver left that was killed together with its guard."""
        kill_marked(self._config["mark"], SERVER_MARK_VARIABLE)
        kill_marked(self._config["mark"])

    def stop(self) -> None:
        """Leave no process."""
        if self._server is not None:
            self._server.stop()
        kill_marked(self._config["mark"])


def read_key(pipe: Path) -> str:
    """What comes through the named pipe: the key, or nothing.

    Raises:
        ServerError: Nobody wrote to it in time.
    """
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    data, deadline = b"", time.monotonic() + KEY_TIMEOUT_S
    try:
        while not data.endswith(b"\n") and len(data) < MAX_KEY_BYTES:
            ready, _, _ = select.select([reader], [], [], max(deadline - time.monotonic(), 0.0))
            if not ready:
                raise ServerError("the credentials did not come")
            chunk = os.read(reader, MAX_KEY_BYTES)
            data += chunk
            if not chunk:
                time.sleep(0.01)  # nobody has opened the other end yet
    finally:
        os.close(reader)
        pipe.unlink()
    return data.decode().strip()


def main() -> int:
    """Run until the input says so. Gives the exit status."""
    os.umask(0o077)
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    guard = Guard(config["mark"])
    keep_memory_private()
    output = Output(folder / "state.json")
    driver = Driver(folder, config, sys.argv[2] or None, output, guard)
    try:
        driver.end_leftovers()
        driver.start(read_key(folder / "key"))
        driver.serve()
    except (ServerError, OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        output.say("failed", message=str(error) or repr(error))
        return 1
    finally:
        with contextlib.suppress(OSError):
            driver.stop()
    return 0
