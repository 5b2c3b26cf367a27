"""What an agent starts as its MCP server: its stdio, carried to the orchestrator through the relay's socket.

    python mcp_bridge.py SOCKET

The way to the orchestrator breaks (a network, a restart), and the agent must not notice: this program remembers the
handshake and the requests that wait for an answer, connects again, and sends them again under the same ids and the
nonce that it drew at its start, by which the orchestrator knows a call that it has seen. Standard library only,
Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from typing import Any

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 2.0
PROGRESS_EVERY_S = 10.0
MAX_LINE_BYTES = 16 * 1024 * 1024
CONNECT_TIMEOUT_S = 5.0


class Bridge:
    """The state of one agent's MCP connection. One lock guards all of it; the reader of stdin never waits for us."""

    def __init__(self, path: str) -> None:
        self._directory, self._name = os.path.split(path)
        self._nonce = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._output_lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._initialize: dict[str, Any] | None = None
        self._initialized: bytes | None = None
        self._replayed_initialize = 0
        self._pending: dict[str, tuple[bytes, Any, float]] = {}
        """Request id, as JSON, to its line, its progress token and when it came."""
        self._ended = threading.Event()

    # -- from the agent ---------------------------------------------------------------------------

    def read_agent(self) -> None:
        """Take the agent's lines until it closes them."""
        for line in iter(lambda: sys.stdin.buffer.readline(MAX_LINE_BYTES), b""):
            with contextlib.suppress(ValueError, RecursionError):
                message = json.loads(line)
                if isinstance(message, dict):
                    self._take(message, line.rstrip(b"\n") + b"\n")
        self._ended.set()

    def _take(self, message: dict[str, Any], line: bytes) -> None:
        method = message.get("method")
        with self._lock:
            if method is not None and "id" in message:
                if method == "initialize":
                    self._initialize = message
                self._pending[json.dumps(message["id"])] = (line, _progress_token(message), time.monotonic())
            elif method == "notifications/initialized":
                self._initialized = line
            elif method == "notifications/cancelled":
                params = message.get("params")
                cancelled = params.get("requestId") if isinstance(params, dict) else None
                self._pending.pop(json.dumps(cancelled), None)
            connection = self._connection
        if connection is not None:
            self._send(connection, line)

    def _send(self, connection: socket.socket, line: bytes) -> None:
        # A request that is lost here is among those that wait, and is sent again on the next connection.
        with self._output_lock, contextlib.suppress(OSError):
            connection.sendall(line)

    # -- to the orchestrator ----------------------------------------------------------------------

    def keep_connected(self) -> None:
        """Connect, and again each time the connection ends."""
        pause_s = FIRST_PAUSE_S
        while not self._ended.is_set():
            connection = self._connect()
            if connection is None:
                self._ended.wait(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            if self._serve(connection):
                pause_s = FIRST_PAUSE_S
            else:
                self._ended.wait(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            os.chdir(self._directory)  # an address holds about 100 bytes, a path may be longer
            connection.settimeout(CONNECT_TIMEOUT_S)
            connection.connect(self._name)
            connection.settimeout(None)
        except OSError:
            connection.close()
            return None
        return connection

    def _serve(self, connection: socket.socket) -> bool:
        """Carry what comes until the connection ends; gives whether anything came."""
        came = False
        with connection:
            with self._lock, self._output_lock:
                try:
                    connection.sendall(b"".join(self._first_lines()))
                except OSError:
                    return False
                self._connection = connection
            try:
                for line in _lines(connection):
                    came = True
                    self._answer(line)
            except OSError:
                pass
            with self._lock:
                self._connection = None
        return came

    def _first_lines(self) -> list[bytes]:
        """What a new connection is told: who we are, the handshake again, and every request that waits."""
        lines = [f"{json.dumps({'bridge': self._nonce})}\n".encode()]
        if self._initialize is not None and json.dumps(self._initialize["id"]) not in self._pending:
            self._replayed_initialize += 1
            again = {**self._initialize, "id": self._replay_id()}
            lines.append(json.dumps(again).encode() + b"\n")
        if self._initialized is not None:
            lines.append(self._initialized)
        # An initialize that waits still is the first of them: nothing else may come before its answer.
        lines += [line for line, _, _ in self._pending.values()]
        return lines

    def _replay_id(self) -> str:
        return f"bridge-{self._nonce}-{self._replayed_initialize}"

    def _answer(self, line: bytes) -> None:
        """Hand a line of the orchestrator to the agent, unless the agent has it or never asked."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return
        if "method" not in message:
            with self._lock:
                if self._pending.pop(json.dumps(message.get("id")), None) is None:
                    return
        self._say(line)

    # -- to the agent -----------------------------------------------------------------------------

    def tell_progress(self) -> None:
        """Tell the agent now and then, as it asked, that its request goes on: some clients give up otherwise."""
        while not self._ended.wait(PROGRESS_EVERY_S):
            now = time.monotonic()
            with self._lock:
                waiting = [(token, now - since) for _, token, since in self._pending.values() if token is not None]
            for token, elapsed_s in waiting:
                params = {"progressToken": token, "progress": round(elapsed_s, 1), "message": "the tests are running"}
                message = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
                self._say(json.dumps(message).encode() + b"\n")

    def _say(self, line: bytes) -> None:
        with _stdout_lock:
            try:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            except OSError:
                self._ended.set()

    def wait(self) -> None:
        """Until the agent is gone."""
        self._ended.wait()


_stdout_lock = threading.Lock()


def _progress_token(message: dict[str, Any]) -> Any:
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    return token if isinstance(token, (str, int)) else None


def _lines(connection: socket.socket) -> Any:
    """Every whole line that comes."""
    waiting = b""
    while True:
        data = connection.recv(65536)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if len(waiting) > MAX_LINE_BYTES:
            return


def main() -> None:
    """Serve until the agent closes our stdin."""
    bridge = Bridge(os.path.abspath(sys.argv[1]))  # noqa: PTH100
    for work in (bridge.read_agent, bridge.keep_connected, bridge.tell_progress):
        threading.Thread(target=work, daemon=True).start()
    bridge.wait()
    os._exit(0)  # threads may wait in a read that nothing ends


if __name__ == "__main__":
    main()
