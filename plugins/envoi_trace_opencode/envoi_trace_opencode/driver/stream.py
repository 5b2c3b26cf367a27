"""The server's event stream: every event goes to our output as it comes, and is looked at in passing."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from .output import Output
from .server import Server

CONNECT_TIMEOUT_S = 60.0
SILENCE_S = 60.0
"""The server sends a heartbeat every ten seconds: after six that are missing, the stream is broken."""


def is_final(part: dict[str, Any]) -> bool:
    """Whether nothing more will be told of a part."""
    kind = part.get("type")
    if kind == "tool":
        return (part.get("state") or {}).get("status") in ("completed", "error")
    if kind in ("text", "reasoning"):
        return (part.get("time") or {}).get("end") is not None
    return kind == "step-finish"


class EventStream:
    """Reads `GET /event` in a thread, and again when it breaks, for as long as the server lives."""

    def __init__(self, server: Server, output: Output, on_status: Callable[[dict[str, Any]], None]) -> None:
        self._server, self._output, self._on_status = server, output, on_status
        self.final: set[str] = set()
        """Parts of which the end was told."""
        self.messages: set[str] = set()
        self._changed = threading.Condition()
        self._connected = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def wait_connected(self) -> bool:
        """Events from now on are not missed."""
        return self._connected.wait(CONNECT_TIMEOUT_S)

    def wait_final(self, part_ids: set[str], timeout_s: float) -> None:
        """Give events that are on their way the time to come."""
        with self._changed:
            self._changed.wait_for(lambda: part_ids <= self.final, timeout_s)

    def tell(self, event: dict[str, Any]) -> None:
        """Tell an event that the stream did not bring."""
        self._take(json.dumps(event, ensure_ascii=False))

    def _run(self) -> None:
        pause_s = 0.05
        while self._server.is_alive:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._read()
            if self._connected.is_set() and self._server.is_alive:
                self._output.say("stream.broken")
            self._connected.clear()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def _read(self) -> None:
        connection, headers = self._server.open(SILENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", "/event", None, headers)
            with connection.getresponse() as response:
                if response.status == 200:
                    self._follow(response)

    def _follow(self, response: http.client.HTTPResponse) -> None:
        data: list[str] = []
        for line in response:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text.startswith("data:"):
                data.append(text[5:].lstrip(" "))
            elif not text and data:
                self._take("".join(data))
                data = []

    def _take(self, text: str) -> None:
        try:
            event = json.loads(text)
            kind, properties = event["type"], event.get("properties") or {}
        except (ValueError, TypeError, KeyError):
            self._output.line(text)
            return
        if kind == "server.heartbeat":
            return  # a sign of the connection's life, not of the agent's
        self._output.line(text)
        if kind == "server.connected":
            self._connected.set()
        elif kind == "session.status":
            self._on_status(properties)
        elif kind in ("message.updated", "message.part.updated"):
            self._note(kind, properties)

    def _note(self, kind: str, properties: dict[str, Any]) -> None:
        if kind == "message.updated":
            self.messages.add(str((properties.get("info") or {}).get("id")))
            return
        part = properties.get("part") or {}
        if is_final(part):
            with self._changed:
                self.final.add(str(part.get("id")))
                self._changed.notify_all()
        if part.get("type") == "step-finish":
            self._on_status({"sessionID": part.get("sessionID"), "status": {"type": "answered"}})
