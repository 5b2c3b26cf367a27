"""Processes in an E2B sandbox, as bytes.

The SDK's `commands` decode what a command writes as UTF-8, which loses what is none, and run every command in a login
shell. Below `commands` is the client that was generated from envd's interface: it gives bytes and takes an argument
list. Its transport, codec, headers and errors are the SDK's own.
"""

from __future__ import annotations

import contextlib
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import attrs
from connectrpc.errors import ConnectError
from e2b import AsyncSandbox  # noqa: TID253
from e2b.api.client_async import get_envd_api  # noqa: TID253
from e2b.connection_config import KEEPALIVE_PING_HEADER, KEEPALIVE_PING_INTERVAL_SEC  # noqa: TID253
from e2b.envd.api import acheck_sandbox_health  # noqa: TID253
from e2b.envd.client_async import as_stream, create_rpc_client  # noqa: TID253
from e2b.envd.process import process_connect, process_pb  # noqa: TID253
from e2b.envd.rpc import ahandle_rpc_exception_with_health  # noqa: TID253
from protobuf import Oneof

from envoi_trace_core.errors import SandboxError, SandboxLostError
from envoi_trace_e2b.calls import call
from envoi_trace_e2b.failures import is_busy, is_unsent, translate

OPEN_S = 30.0
"""How long envd may take to start a process."""
INPUT_S = 300.0
"""How long one piece of input may wait for a command that is slow to read."""
INPUT_BYTES = 1 << 18
ROOT = {"Authorization": "Basic cm9vdDo="}
"""`root:` in base64; else a process runs as the template's own user. Source: https://e2b.dev/docs/sandbox/user."""


@attrs.frozen(kw_only=True)
class Data:
    """A piece of a process's output."""

    is_stdout: bool
    data: bytes


@attrs.frozen(kw_only=True)
class Ended:
    """The process's end, and that of all its outputs."""

    exit_code: int
    """As a shell gives it."""


@attrs.define
class Envd:
    """Starts processes in one sandbox and speaks with them."""

    sandbox: AsyncSandbox
    _rpc: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        config = self.sandbox.connection_config
        self._rpc = create_rpc_client(process_connect.ProcessClient, self.sandbox.envd_api_url, config)

    @property
    def id(self) -> str:
        """The sandbox's."""
        return self.sandbox.sandbox_id

    @asynccontextmanager
    async def start(
        self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bool, as_root: bool = False
    ) -> AsyncGenerator[Process]:
        """Start a process in `/`; leaving the context lets go of it, and leaves it running.

        What envd refuses because it is busy, and what never reached it, is tried again for a bounded time.
        """
        request = process_pb.StartRequest(
            process=process_pb.ProcessConfig(cmd=argv[0], args=list(argv[1:]), envs=dict(env), cwd="/"), stdin=stdin
        )
        headers = {KEEPALIVE_PING_HEADER: str(KEEPALIVE_PING_INTERVAL_SEC), **(ROOT if as_root else {})}

        async def once() -> Process:
            # No deadline of the stream: envd would kill the process at it, and only that one of its group.
            events = as_stream(self._rpc.start(request, headers=headers, timeout_ms=None))
            process = Process(self, events)
            # A cancel that comes between the request and its answer would leave a process that nobody knows.
            with anyio.CancelScope(shield=True):
                try:
                    with anyio.fail_after(OPEN_S):
                        await process.open()
                except BaseException as error:
                    await process.close()
                    if isinstance(error, TimeoutError) and not isinstance(error, ConnectError):
                        raise SandboxLostError(f"The E2B sandbox {self.id} does not start a command.") from error
                    raise
            return process

        process = await self._patient("A command could not be started", once)
        try:
            yield process
        finally:
            with anyio.move_on_after(5, shield=True):
                await process.close()

    async def send_input(self, pid: int, data: bytes) -> None:
        """Feed a process, in pieces.

        Raises:
            SandboxError: It has ended.
            SandboxLostError: The sandbox can't be reached.
        """
        selector = _selector(pid)
        for start in range(0, len(data), INPUT_BYTES):
            piece: Oneof[Literal["stdin"], bytes] = Oneof("stdin", data[start : start + INPUT_BYTES])
            request = process_pb.SendInputRequest(process=selector, input=process_pb.ProcessInput(input=piece))

            async def once(request: Any = request) -> None:
                try:
                    await self._rpc.send_input(request, timeout_ms=round(INPUT_S * 1000))
                except ConnectError as error:
                    raise await self.sorted(error) from error

            await self._patient("A command could not be fed", once)

    async def close_input(self, pid: int) -> None:
        """End a process's input."""
        selector = _selector(pid)

        async def once() -> None:
            try:
                await self._rpc.close_stdin(process_pb.CloseStdinRequest(process=selector), timeout_ms=30_000)
            except ConnectError as error:
                raise await self.sorted(error) from error

        await self._patient("A command's input could not be closed", once)

    async def sorted(self, error: Exception) -> BaseException:
        """The SDK's own exception for one of the wire; asks the sandbox's health where the wire does not say enough."""
        health = get_envd_api(self.sandbox.connection_config, self.sandbox.envd_api_url, retry_connect=False)
        found: BaseException = await ahandle_rpc_exception_with_health(error, lambda: acheck_sandbox_health(health))
        if found is not error and found.__cause__ is None and not isinstance(found, CancelledError):
            found.__cause__ = error
        return found

    async def _patient[T](self, what: str, once: Callable[[], Awaitable[T]]) -> T:
        """Try again what was refused or never sent, and nothing else."""
        return await call(what, once, sandbox_id=self.id, again=lambda error: is_busy(error) or is_unsent(error))


class Process:
    """A process that envd started, and the events that it sends of it."""

    def __init__(self, envd: Envd, events: AsyncGenerator[Any, Any]) -> None:
        self._envd = envd
        self._events = events
        self.pid = 0

    async def open(self) -> None:
        """Wait for the start."""
        first = await self._next()
        match first.event.event if first is not None and first.event is not None else None:
            case Oneof(field="start", value=start):
                self.pid = start.pid
            case _:
                raise SandboxError("E2B did not say that it started a command.")

    async def next(self) -> Data | Ended:
        """The next that it writes, or its end.

        Raises:
            SandboxLostError: The stream broke before the end.
        """
        while True:
            try:
                event = await self._next()
            except Exception as error:
                raise translate(error, "A command's output broke off", sandbox_id=self._envd.id) from error
            if event is None:
                raise SandboxLostError(f"The E2B sandbox {self._envd.id} broke off a command's output.", retryable=True)
            match event.event.event if event.event is not None else None:
                case Oneof(field="data", value=data):
                    output = data.output
                    if output is not None and output.field in ("stdout", "stderr"):
                        return Data(is_stdout=output.field == "stdout", data=bytes(output.value))
                case Oneof(field="end", value=end):
                    return Ended(exit_code=_exit_code(end))

    async def close(self) -> None:
        """Let go of the stream."""
        with contextlib.suppress(Exception):  # it is over either way
            await self._events.aclose()

    async def _next(self) -> Any:
        try:
            return await anext(self._events, None)
        except ConnectError as error:
            raise await self._envd.sorted(error) from error


def _selector(pid: int) -> process_pb.ProcessSelector:
    chosen: Oneof[Literal["pid"], int] = Oneof("pid", pid)
    return process_pb.ProcessSelector(selector=chosen)


def _exit_code(end: Any) -> int:
    """128 + N for a signal; envd says -1, and `signal: killed`."""
    if end.exit_code >= 0 or end.exited:
        return int(end.exit_code) & 0xFF
    return 143 if "terminated" in end.status else 137
