"""A server that speaks chat completions and answers what a test wrote down, with faults where it wants them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import attrs

USAGE: Mapping[str, Any] = {
    "prompt_tokens": 1000,
    "prompt_tokens_details": {"cached_tokens": 400},
    "completion_tokens": 50,
    "completion_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 1050,
}


@attrs.frozen
class Call:
    """A call of a tool; text as arguments goes out as it is, sound or not."""

    name: str
    arguments: Mapping[str, Any] | str


def shell(command: str, **more: Any) -> Call:
    """A shell command."""
    return Call("bash", {"command": command, "description": "run it", **more})


@attrs.frozen(kw_only=True)
class Answer:
    """One answer of the model."""

    reasoning: str = ""
    text: str = ""
    calls: Sequence[Call] = ()
    usage: Mapping[str, Any] = USAGE
    drops: bool = False
    """Whether the stream ends in the middle, without a word."""
    holds: bool = False
    """Whether the stream stands still after its text until the test lets go (`ScriptedModel.let_go`)."""


@attrs.frozen
class Failure:
    """An HTTP error."""

    status: int
    message: str = "scripted failure"
    headers: Mapping[str, str] = attrs.field(factory=dict)


def answer(*calls: Call, **more: Any) -> Answer:
    """An answer with calls."""
    return Answer(calls=calls, **more)


@attrs.frozen
class Request:
    """What the agent sent."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        """All of it, to look for words in."""
        return json.dumps(self.body, ensure_ascii=False)

    @property
    def prompts(self) -> list[str]:
        """The user's messages."""
        told = [message["content"] for message in self.body["messages"] if message["role"] == "user"]
        return [one if isinstance(one, str) else "".join(piece.get("text", "") for piece in one) for one in told]


Script = Callable[[Request], Answer | Failure]


class ScriptedModel:
    """Answers in order, and at the script's end with the last one again. Requests without tools get a title."""

    def __init__(self) -> None:
        self.answers: list[Answer | Failure | Script] = [Answer(text="done")]
        self.requests: list[Request] = []
        self.given = 0
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._server = _Listener(self)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def script(self, *answers: Answer | Failure | Script) -> None:
        """What to answer from now on."""
        with self._lock:
            self.answers, self.given = list(answers), 0

    def let_go(self) -> None:
        """End every answer that is held."""
        self._released.set()

    def wait_released(self) -> None:
        """Until the test lets go, at most a minute."""
        self._released.wait(60)

    def take(self, request: Request) -> Answer | Failure:
        """The answer to a request."""
        if not request.body.get("tools"):
            return Answer(text="a title")
        with self._lock:
            self.requests.append(request)
            found = self.answers[min(self.given, len(self.answers) - 1)]
            self.given += 1
        return found(request) if callable(found) else found

    def wait_requests(self, count: int) -> None:
        """Until that many requests have come."""
        wait_until(lambda: len(self.requests) >= count)


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Poll a condition; fails when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: ScriptedModel) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.close_connection = True
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        found = self.server.model.take(Request(body, {name.lower(): value for name, value in self.headers.items()}))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if isinstance(found, Failure):
                self._fail(found)
            else:
                self._stream(found)

    def _fail(self, failure: Failure) -> None:
        data = json.dumps({"error": {"message": failure.message, "type": "scripted", "code": None}}).encode()
        self.send_response(failure.status)
        for name, value in {**failure.headers, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def _tell(self, choices: list[dict[str, Any]], **more: Any) -> None:
        about = {"id": "chat", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
        self.wfile.write(b"data: " + json.dumps({**about, "choices": choices, **more}).encode() + b"\n\n")
        self.wfile.flush()

    def _delta(self, finish: str | None = None, **fields: Any) -> None:
        self._tell([{"index": 0, "delta": fields, "finish_reason": finish}])

    def _stream(self, found: Answer) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self._delta(role="assistant", content="")
        for half in _halves(found.reasoning):
            self._delta(reasoning_content=half)
        for half in _halves(found.text):
            self._delta(content=half)
        if found.holds:
            self.server.model.wait_released()
        if found.drops:
            return
        number = self.server.model.given
        for index, call in enumerate(found.calls):
            given = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
            function = {"name": call.name, "arguments": ""}
            about = {"index": index, "id": f"call_{number}_{index}", "type": "function", "function": function}
            self._delta(tool_calls=[about])
            self._delta(tool_calls=[{"index": index, "function": {"arguments": given}}])
        self._delta("tool_calls" if found.calls else "stop")
        self._tell([], usage=found.usage)
        self.wfile.write(b"data: [DONE]\n\n")


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [half for half in (text[:middle], text[middle:]) if half]
