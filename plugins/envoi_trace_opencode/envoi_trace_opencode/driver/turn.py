"""One turn: a prompt to the server until it hands back, is interrupted, or fails."""

from __future__ import annotations

import contextlib
import http.client
import queue
import threading
import time
from typing import Any

from .history import reconcile
from .output import Output
from .processes import kill_marked
from .server import Server, ServerError
from .stream import EventStream

ABORT_S = 8.0
"""How long the server may take to end a turn before it is killed."""
FINE_ERRORS = frozenset({"MessageOutputLengthError"})
"""The model was cut; the agent handed back all the same."""


class Turn:
    """Plays one prompt. What happens is posted to `news` by whoever notices it."""

    def __init__(self, turn_id: str, output: Output, retry_timeout_s: float, mark: str) -> None:
        self.turn_id = turn_id
        self._output, self._retry_timeout_s, self._mark = output, retry_timeout_s, mark
        self.news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._retrying: dict[str, tuple[float, str]] = {}
        """By session: since when its model has failed without an answer in between, and the newest words."""
        self._is_over = False

    def interrupt(self) -> None:
        """End it at once. It may be called from any thread."""
        self.news.put(("interrupt", None))

    def note_status(self, properties: dict[str, Any]) -> None:
        """A session is busy, idle, has got an answer, or waits before it asks its model again."""
        self.news.put(("status", properties))

    def play(self, server: Server, stream: EventStream, session_id: str, prompt: dict[str, Any]) -> None:
        """Hand over the prompt and wait for its end; gives when the end has been told."""
        threading.Thread(target=self._post, args=(server, session_id, prompt), daemon=True).start()
        threading.Thread(target=self._watch, args=(server,), daemon=True).start()
        kind, value = self._wait()
        if kind == "died":
            self._died(server)
            return
        status, error = "completed", None
        if kind == "answer":
            status, error = self._outcome(value)
        else:
            self._abort(server, session_id)
            status, error = ("aborted", None) if kind == "interrupt" else ("failed", value)
        if not server.is_alive:
            if kind == "answer":
                self._died(server)
                return
            self._output.say("server.ended", message=server.how_it_ended())
        else:
            with contextlib.suppress(OSError, http.client.HTTPException, ServerError):
                reconcile(server, stream, session_id)
        self._is_over = True
        self._output.end_turn(self.turn_id, status, error)

    def _post(self, server: Server, session_id: str, prompt: dict[str, Any]) -> None:
        try:
            answer = server.request("POST", f"/session/{session_id}/message", prompt, timeout_s=None)
            self.news.put(("answer", answer))
        except ServerError as error:
            self.news.put(("answer", {"info": {"error": {"name": "Refused", "data": {"message": str(error)}}}}))
        except (OSError, http.client.HTTPException, ValueError) as error:
            if server.ended.wait(2.0):
                return  # told by the watch
            message = f"opencode serve broke its answer off: {error!r}"
            self.news.put(("answer", {"info": {"error": {"name": "Broken", "data": {"message": message}}}}))

    def _watch(self, server: Server) -> None:
        server.ended.wait()
        if not self._is_over:
            self.news.put(("died", None))

    def _wait(self) -> tuple[str, Any]:
        while True:
            try:
                kind, value = self.news.get(timeout=self._patience_s())
            except queue.Empty:
                since, words = min(self._retrying.values())
                message = f"{words} (tried again for {time.monotonic() - since:.0f} s)"
                return "retries", {"name": "RetriesExhausted", "message": message, "retryable": True}
            if kind != "status":
                return kind, value
            self._note_retry(value)

    def _patience_s(self) -> float | None:
        if not self._retrying:
            return None
        since = min(since for since, _words in self._retrying.values())
        return max(since + self._retry_timeout_s - time.monotonic(), 0.0)

    def _note_retry(self, properties: dict[str, Any]) -> None:
        session_id, status = str(properties.get("sessionID")), properties.get("status") or {}
        if status.get("type") == "retry":
            since = self._retrying.get(session_id, (time.monotonic(), ""))[0]
            next_s = float(status.get("next") or 0) / 1000 - time.time()
            if time.monotonic() + next_s > since + self._retry_timeout_s:
                since = time.monotonic() - self._retry_timeout_s  # it would only wait beyond our patience
            self._retrying[session_id] = (since, str(status.get("message") or "no answer")[:2000])
        elif status.get("type") in ("idle", "answered"):
            self._retrying.pop(session_id, None)

    def _abort(self, server: Server, session_id: str) -> None:
        deadline = time.monotonic() + ABORT_S
        with contextlib.suppress(OSError, http.client.HTTPException, ServerError):
            server.request("POST", f"/session/{session_id}/abort", timeout_s=ABORT_S)
        while True:
            try:
                kind, _value = self.news.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                server.stop()
                break
            if kind in ("answer", "died"):
                break
        kill_marked(self._mark)

    def _died(self, server: Server) -> None:
        self._is_over = True
        kill_marked(self._mark)
        message = server.how_it_ended()
        self._output.say("server.ended", message=message)
        self._output.end_turn(self.turn_id, "failed", {"name": "ServerDied", "message": message, "retryable": True})

    def _outcome(self, answer: Any) -> tuple[str, dict[str, Any] | None]:
        info = (answer or {}).get("info") or {}
        error = info.get("error")
        if not error or error.get("name") in FINE_ERRORS:
            return "completed", None
        data = error.get("data") or {}
        return "failed", {
            "name": error.get("name"),
            "message": str(data.get("message") or error.get("name"))[:2000],
            "status_code": data.get("statusCode"),
            "retryable": data.get("isRetryable") is True,
        }
