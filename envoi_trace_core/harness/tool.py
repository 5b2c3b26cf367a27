"""The `run_tests` tool: one call checkpoints the workspace, tests that commit, is recorded, and then answered.

The call is recorded here, where the agent can't forge it, and before the agent has its answer, so that a call whose
answer is lost is answered from the record when it is asked again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.abc
import attrs

from envoi_trace_core.background import background_tasks
from envoi_trace_core.domain.facts import CallRecorded
from envoi_trace_core.domain.parts import EnvoiCall, PathResult, TestCounts
from envoi_trace_core.domain.solving import below, visible_paths
from envoi_trace_core.errors import EnvoiTraceError
from envoi_trace_core.harness import mcp_bridge
from envoi_trace_core.harness.answers import answer_text
from envoi_trace_core.harness.gate import TestGate
from envoi_trace_core.harness.mcp_server import serve_mcp
from envoi_trace_core.harness.relay import Relay
from envoi_trace_core.harness.runtime import Runtime
from envoi_trace_core.sandboxing.bootstrap import find_python
from envoi_trace_core.specs import McpServer

SERVER_NAME = "tests"
MAX_PATH_CHARS = 1000
MAX_KEPT_ANSWERS = 64
WAIT_MARGIN_S = 3600.0
"""How much longer than its tests a call may take for an agent: it waits for a slot, or for us to come back."""


@attrs.define
class _Call:
    """A call that was taken; its answer is there when `done` is set."""

    done: anyio.Event = attrs.field(factory=anyio.Event)
    text: str = ""
    is_error: bool = False


@attrs.define(kw_only=True)
class RunTestsTool:
    """Made by `open_run_tests_tool`."""

    runtime: Runtime
    relay: Relay
    gate: TestGate
    hidden: tuple[str, ...]
    checkpoint: Callable[[], Awaitable[str]]
    """Commits the workspace as it is now; gives the commit, the last one when nothing changed."""
    export: Callable[[str, Path], Awaitable[None]]
    on_call: Callable[[CallRecorded], Awaitable[None]]
    """Makes the call and its answer durable."""
    on_failure: Callable[[EnvoiTraceError], None]
    """Told when the harness or a sandbox failed, so that the run can end."""
    timeout_s: float

    _group: anyio.abc.TaskGroup = attrs.field(init=False)
    _calls: dict[str, _Call] = attrs.field(factory=dict, init=False)
    """By call id: those in flight, and the newest that were answered."""
    _recorded: dict[str, CallRecorded] = attrs.field(factory=dict, init=False)
    _in_flight: int = attrs.field(default=0, init=False)
    _command: tuple[str, ...] = attrs.field(default=(), init=False)

    @property
    def calls_in_flight(self) -> int:
        """Calls that were taken and not yet recorded."""
        return self._in_flight

    def mcp_server(self) -> McpServer:
        """What the agent starts to reach the tool."""
        return McpServer(name=SERVER_NAME, command=self._command, tool_timeout_s=self.timeout_s + WAIT_MARGIN_S)

    async def answer(self, caller: str, request_id: str | int, path: str) -> tuple[str, bool]:
        """Answer a call: the text, and whether it is an error. The same call twice runs once.

        Args:
            caller: The nonce of the bridge that the call came through.
            request_id: Unique for that caller.
            path: A suite or a test; empty for all.
        """
        path = path[:MAX_PATH_CHARS]
        call_id = hashlib.sha256(json.dumps([caller, request_id, path]).encode()).hexdigest()[:32]
        call = self._calls.get(call_id)
        if call is None and call_id in self._recorded:
            return self._answer_of(self._recorded[call_id])
        if call is None:
            call = self._calls[call_id] = _Call()
            self._in_flight += 1
            # Not the caller's task: that one ends when the connection breaks, and the call goes on.
            self._group.start_soon(self._take, call_id, path, call)
        await call.done.wait()
        return call.text, call.is_error

    async def _take(self, call_id: str, path: str, call: _Call) -> None:
        try:
            record, detail = await self._run(call_id, path)
            ended = CallRecorded(call=record, answer=answer_text(record, detail, self._visible()))
            call.text, call.is_error = self._answer_of(ended)
            await self.on_call(ended)
            self._recorded[call_id] = CallRecorded(call=record)
        except EnvoiTraceError as error:
            call.text, call.is_error = f"The call could not be recorded: {error.message}", True
            self.on_failure(error)
        finally:
            self._in_flight -= 1
            call.done.set()
            self._forget_old_answers()

    async def _run(self, call_id: str, path: str) -> tuple[EnvoiCall, dict[str, str]]:
        at, started = datetime.now(UTC), time.monotonic()
        commit: str | None = None
        status_code, error, counts = 200, None, TestCounts()
        results: tuple[PathResult, ...] = ()
        detail: dict[str, str] = {}
        leaves = below(self._visible(), path.strip().strip("/"))
        try:
            commit = await self.checkpoint()
            if not leaves:
                status_code, error = 404, f"no test matches {path!r}"
            else:
                async with self.gate.slot(first=True):
                    with TemporaryDirectory(prefix="envoi-trace-") as directory:
                        await self.export(commit, Path(directory))
                        run = await self.runtime.test(Path(directory), leaves, timeout_s=self.timeout_s)
                status_code = 200 if run.status == "completed" else 422
                error, counts, results, detail = run.error, run.counts, run.results, dict(run.detail)
        except EnvoiTraceError as failure:
            status_code, error = 500, failure.message
            self.on_failure(failure)
        record = EnvoiCall(
            call_id=call_id,
            path=path,
            commit=commit,
            timestamp=at,
            duration_ms=int((time.monotonic() - started) * 1000),
            status_code=status_code,
            error=error,
            counts=counts,
            results=results,
        )
        return record, detail

    def _answer_of(self, ended: CallRecorded) -> tuple[str, bool]:
        text = answer_text(ended.call, {}, self._visible()) if ended.answer is None else ended.answer
        return text, ended.call.status_code in (404, 500)

    def _visible(self) -> tuple[str, ...]:
        return visible_paths(self.runtime.schema.test_paths, self.hidden)

    def _forget_old_answers(self) -> None:
        """What was answered long ago is answered again from its record, without the details."""
        answered = [call_id for call_id, call in self._calls.items() if call.done.is_set()]
        for call_id in answered[:-MAX_KEPT_ANSWERS]:
            del self._calls[call_id]

    async def install(self, known: Iterable[CallRecorded]) -> None:
        """Put the bridge into the agent's sandbox and offer the tool there."""
        self._recorded.update((ended.call.call_id, ended) for ended in known)
        sandbox = self.relay.sandbox
        bridge = f"{sandbox.support_dir}/relay/mcp_bridge.py"
        python = await find_python(sandbox)
        await sandbox.write_file(bridge, await anyio.Path(mcp_bridge.__file__).read_bytes())
        socket_path = await self.relay.serve(SERVER_NAME, lambda stream: serve_mcp(stream, self.answer))
        self._command = (python, "-I", bridge, socket_path)


@asynccontextmanager
async def open_run_tests_tool(
    *,
    runtime: Runtime,
    relay: Relay,
    gate: TestGate,
    checkpoint: Callable[[], Awaitable[str]],
    export: Callable[[str, Path], Awaitable[None]],
    on_call: Callable[[CallRecorded], Awaitable[None]],
    on_failure: Callable[[EnvoiTraceError], None],
    hidden: Sequence[str] = (),
    known: Iterable[CallRecorded] = (),
    timeout_s: float = 3600.0,
) -> AsyncIterator[RunTestsTool]:
    """Offer `run_tests` in the agent's sandbox, the one of `relay`, until the context is left.

    Args:
        runtime: Runs the tests.
        relay: Into the agent's sandbox.
        gate: Shared with the evaluator.
        checkpoint: Commits the workspace; gives the commit.
        export: Writes a commit's files into an empty folder.
        on_call: Makes a call durable with its answer; the agent waits for it.
        on_failure: Told of failures that are not the agent's.
        hidden: Globs of the test paths that the agent must not see.
        known: Calls that were recorded before a restart: asked again, they are answered as they were.
        timeout_s: Of the build and the tests of one call.

    Raises:
        SandboxError: The tool can't be offered there.
    """
    tool = RunTestsTool(
        runtime=runtime,
        relay=relay,
        gate=gate,
        hidden=tuple(hidden),
        checkpoint=checkpoint,
        export=export,
        on_call=on_call,
        on_failure=on_failure,
        timeout_s=timeout_s,
    )
    async with background_tasks() as group:
        tool._group = group  # its owner
        await tool.install(known)
        yield tool
