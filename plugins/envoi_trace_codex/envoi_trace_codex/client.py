"""A client of the app-server protocol: newline-delimited JSON over a detached process.

There is no task of its own that reads: whoever waits for something reads on, one line at a time and one reader
at a time. So nothing runs in the background, and what nobody waits for stays in the sandbox's file.

Protocol: https://github.com/openai/codex/blob/main/codex-rs/app-server/README.md
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any
from uuid import uuid4

import anyio
import attrs

from envoi_trace_codex.failures import process_ended, refused, silent
from envoi_trace_codex.parsing.values import MALFORMED, load, mapping, text
from envoi_trace_core.errors import AgentError
from envoi_trace_core.protocols import AgentOutput
from envoi_trace_core.sandboxing.detached import DetachedProcess, Line

_POSITION = re.compile(r"([^:@]+):(\d{1,18})(?:@(\d{1,18}))?")

_ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "item/commandExecution/requestApproval": {"decision": "accept"},
    "item/fileChange/requestApproval": {"decision": "accept"},
    "applyPatchApproval": {"decision": "approved"},
    "execCommandApproval": {"decision": "approved"},
}
"""Requests of the server's that are answered; approvals are never asked for, but a version might."""


@attrs.frozen(kw_only=True)
class Message:
    """A line of app-server's, and where it stands."""

    output: AgentOutput
    start_offset: int
    end_offset: int
    content: Mapping[str, Any]
    """Empty when the line is no JSON object."""

    @property
    def method(self) -> str:
        """Of a notification or a request; empty for an answer."""
        return text(self.content.get("method"))

    @property
    def params(self) -> Mapping[str, Any]:
        """Of a notification or a request."""
        return mapping(self.content.get("params"))


@attrs.frozen
class Position:
    """A place in a process's output, and in the thread's rollout file where that is read too."""

    process_name: str
    offset: int
    rollout_offset: int | None = None

    def __str__(self) -> str:
        place = f"{self.process_name}:{self.offset}"
        return place if self.rollout_offset is None else f"{place}@{self.rollout_offset}"

    @classmethod
    def parse(cls, noted: str | None) -> Position | None:
        """Read what `str` wrote; None when it is none."""
        found = _POSITION.fullmatch(noted or "")
        if found is None:
            return None
        return cls(found[1], int(found[2]), int(found[3]) if found[3] else None)


def message_of(process_name: str, line: Line, start_offset: int) -> Message:
    """A line as a message, whatever it holds."""
    raw = line.data.decode("utf-8", "replace")
    output = AgentOutput(raw=raw, position=str(Position(process_name, line.end_offset)))
    try:
        content = mapping(load(raw))
    except MALFORMED:
        content = {}
    return Message(output=output, start_offset=start_offset, end_offset=line.end_offset, content=content)


@attrs.define
class AppServerClient:
    """Requests to one app-server process, and its messages in order."""

    process: DetachedProcess
    offset: int = 0
    """How far its output was read."""
    messages: deque[Message] = attrs.field(factory=deque, init=False)
    """Read, and not yet taken."""
    ended: bool = attrs.field(default=False, init=False)
    """Whether the process has ended and all of its output was read."""
    _nonce: str = attrs.field(factory=lambda: uuid4().hex[:12], init=False)
    _count: int = attrs.field(default=0, init=False)
    _answers: dict[str, Mapping[str, Any]] = attrs.field(factory=dict, init=False)
    _lines: AsyncGenerator[Line] | None = attrs.field(default=None, init=False)
    _reading: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)
    _watchers: list[Callable[[Message], None]] = attrs.field(factory=list, init=False)

    def watch(self, watcher: Callable[[Message], None]) -> None:
        """Tell `watcher(message)` of every message as it is read."""
        self._watchers.append(watcher)

    # -- requests ---------------------------------------------------------------------------------

    def request(self, method: str, params: Mapping[str, Any] | None = None) -> tuple[str, bytes]:
        """A request's id, and its line. Ids are unique through restarts of the orchestrator."""
        self._count += 1
        request_id = f"{self._nonce}-{self._count}"
        return request_id, _line({"id": request_id, "method": method, "params": params or {}})

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float
    ) -> Mapping[str, Any]:
        """Send a request and wait for its result.

        Raises:
            AgentError: It was refused, not answered in time, or the process ended.
        """
        request_id, line = self.request(method, params)
        await self.process.write(line)
        return await self.answer(request_id, method, timeout_s=timeout_s)

    async def answer(self, request_id: str, method: str, *, timeout_s: float) -> Mapping[str, Any]:
        """Wait for the result of a request that was sent; raises as `call`."""
        with anyio.move_on_after(timeout_s):
            while request_id not in self._answers:
                if not await self.read_one():
                    raise await self.death()
        if request_id not in self._answers:
            raise silent(method, timeout_s)
        content = self._answers.pop(request_id)
        if "error" in content:
            raise refused(method, mapping(content["error"]))
        return mapping(content.get("result"))

    async def notify(self, method: str) -> None:
        """Send a notification."""
        await self.process.write(_line({"method": method}))

    async def death(self) -> AgentError:
        """Why the process ended, in its own words."""
        return process_ended(await self.process.exit_code(), await self.process.stderr_tail())

    # -- messages ---------------------------------------------------------------------------------

    async def next_message(self) -> Message | None:
        """The next message; None when the process has ended and all was taken."""
        while not self.messages:
            if not await self.read_one():
                return self.messages.popleft() if self.messages else None
        return self.messages.popleft()

    async def read_one(self) -> bool:
        """Read one more line, or let another reader do so; False when there is none any more."""
        seen = self.offset
        async with self._reading:
            if self.ended or self.offset > seen:
                return not self.ended  # another reader was faster: look at what it read
            if self._lines is None:
                self._lines = self.process.lines(self.offset)
            try:
                line = await anext(self._lines)
            except StopAsyncIteration:
                self.ended = True
                return False
            except BaseException:
                self._lines = None  # a generator that was cancelled is dead; the next reader begins a new one
                raise
            start, self.offset = self.offset, line.end_offset
            await self._take(message_of(self.process.name, line, start))
            return True

    async def _take(self, message: Message) -> None:
        self.messages.append(message)
        request_id = message.content.get("id")
        if message.method and request_id is not None:
            await self._answer_server(request_id, message.method)
        elif isinstance(request_id, str) and request_id.startswith(self._nonce):
            self._answers[request_id] = message.content
        for watcher in self._watchers:
            watcher(message)

    async def _answer_server(self, request_id: Any, method: str) -> None:
        """Every request of the server's gets an answer, so that it never waits for us."""
        result = _ANSWERS.get(method)
        if result is not None:
            await self.process.write(_line({"id": request_id, "result": result}))
            return
        error = {"code": -32601, "message": f"envoi-trace does not answer {method}"}
        await self.process.write(_line({"id": request_id, "error": error}))

    async def close(self) -> None:
        """Let go of the process's output."""
        lines, self._lines = self._lines, None
        if lines is not None:
            await lines.aclose()


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
