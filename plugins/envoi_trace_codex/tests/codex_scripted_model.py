"""A server that speaks the Responses API and answers what a test wrote down, with faults where it wants them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import attrs

USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 400},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 1050,
}


@attrs.frozen
class Reasoning:
    """A thought, with its summary."""

    text: str


@attrs.frozen
class Message:
    """Words of the agent."""

    text: str


@attrs.frozen
class Call:
    """A call of a function tool; `namespace` for MCP (`mcp__tests`)."""

    name: str
    arguments: Mapping[str, Any]
    namespace: str | None = None


@attrs.frozen
class Custom:
    """A call of a free-form tool: `apply_patch`, or `exec` of a code-mode model."""

    name: str
    input: str


Item = Reasoning | Message | Call | Custom


def shell(command: str, **more: Any) -> Call:
    """A shell command."""
    return Call("exec_command", {"cmd": command, **more})


def patch(*lines: str) -> Custom:
    """A patch in Codex's format, without its first and last line."""
    return Custom("apply_patch", "\n".join(("*** Begin Patch", *lines, "*** End Patch")))


@attrs.frozen
class Answer:
    """One answer of the model."""

    items: tuple[Item, ...]
    usage: Mapping[str, Any] = attrs.field(factory=lambda: USAGE)
    gate: threading.Event | None = None
    """Held back after the items until this is set."""
    cut: bool = False
    """Whether the stream breaks off before its end."""


@attrs.frozen
class Failure:
    """An HTTP error instead of an answer."""

    status: int
    error: Mapping[str, Any] = attrs.field(factory=lambda: {"message": "scripted failure", "type": "server_error"})
    headers: Mapping[str, str] = attrs.field(factory=dict)


def answer(*items: Item, **more: Any) -> Answer:
    """An answer of these items."""
    return Answer(items, **more)


@attrs.frozen
class Request:
    """What Codex asked."""

    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Its body as JSON text."""
        return json.dumps(self.body)


Step = Answer | Failure | Callable[[Request], Answer | Failure]
"""What the model does next; a function where it depends on what Codex asked."""


@attrs.define
class ScriptedModel:
    """The server; a context manager. A request past the script's end gets a final message."""

    script: list[Step] = attrs.field(factory=list)
    requests: list[Request] = attrs.field(factory=list)
    _server: ThreadingHTTPServer | None = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _call: Callable[[], int] = attrs.field(factory=lambda: iter(range(10**9)).__next__)
    closing: threading.Event = attrs.field(factory=threading.Event)

    def play(self, *script: Step) -> None:
        """Replace what is left of the script."""
        with self._lock:
            self.script = list(script)

    @property
    def base_url(self) -> str:
        """For `--agent-opt base_url=`."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def take(self, request: Request) -> Answer | Failure:
        """Note a request, and give what the script has for it."""
        with self._lock:
            self.requests.append(request)
            step = self.script.pop(0) if self.script else answer(Message("the script is over"))
            return step(request) if callable(step) else step

    def number(self) -> int:
        """A number that was not given before."""
        return self._call()

    def __enter__(self) -> Self:
        model = self

        class Handler(_Handler):
            scripted = model

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: ScriptedModel

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """Nothing is to be got: Codex asks for a list of models and lives without."""
        self._json(404, {"error": {"message": "not found"}})

    def do_POST(self) -> None:
        """One request to the model."""
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        headers = {name.lower(): value for name, value in self.headers.items()}
        given = self.scripted.take(Request(headers, body))
        if isinstance(given, Failure):
            self._json(given.status, {"error": dict(given.error)}, given.headers)
            return
        try:
            self._stream(given)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "content-type": "application/json",
            "content-length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, given: Answer) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.close_connection = True
        self.end_headers()
        number = self.scripted.number()
        response = {"id": f"resp_{number}"}
        self._event({"type": "response.created", "response": response})
        for index, item in enumerate(given.items):
            self._item(index, item, f"{number}_{index}")
        if given.gate is not None:
            while not given.gate.wait(0.02) and not self.scripted.closing.is_set():
                pass
        if not given.cut:
            done = {**response, "status": "completed", "usage": dict(given.usage)}
            self._event({"type": "response.completed", "response": done})

    def _item(self, index: int, item: Item, name: str) -> None:
        wire = _wire(item, name)
        empty = {**wire, "content": []} if isinstance(item, Message) else wire
        self._event({"type": "response.output_item.added", "output_index": index, "item": empty})
        about = {"item_id": wire["id"], "output_index": index}
        if isinstance(item, Message):
            for piece in _pieces(item.text):
                self._event({"type": "response.output_text.delta", "content_index": 0, "delta": piece, **about})
        elif isinstance(item, Reasoning):
            part = {"type": "summary_text", "text": ""}
            self._event({"type": "response.reasoning_summary_part.added", "summary_index": 0, "part": part, **about})
            delta = {"summary_index": 0, "delta": item.text}
            self._event({"type": "response.reasoning_summary_text.delta", **delta, **about})
        self._event({"type": "response.output_item.done", "output_index": index, "item": wire})

    def _event(self, event: Mapping[str, Any]) -> None:
        self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()


def _pieces(text: str) -> Sequence[str]:
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def _wire(item: Item, name: str) -> dict[str, Any]:
    """An item as the Responses API has it."""
    match item:
        case Reasoning(text):
            summary = [{"type": "summary_text", "text": text}]
            return {"type": "reasoning", "id": f"rs_{name}", "summary": summary, "encrypted_content": "sealed"}
        case Message(text):
            content = [{"type": "output_text", "text": text, "annotations": []}]
            about = {"id": f"msg_{name}", "role": "assistant", "status": "completed"}
            return {"type": "message", "content": content, **about}
        case Call(tool, arguments, namespace):
            about = {"id": f"fc_{name}", "call_id": f"call_{name}", "name": tool}
            called = {"type": "function_call", "arguments": json.dumps(dict(arguments)), **about}
            return {**called, "namespace": namespace} if namespace else called
        case Custom(tool, text):
            about = {"id": f"ctc_{name}", "call_id": f"call_{name}", "name": tool, "status": "completed"}
            return {"type": "custom_tool_call", "input": text, **about}


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Poll a condition, for a bounded time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
