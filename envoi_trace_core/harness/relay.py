"""The orchestrator's end of the relay: any number of byte streams to and from a sandbox over one `stream`.

That stream breaks as networks do. Then every byte stream on it is closed at both ends, and it is opened again
with a bounded back-off; the services that were offered are offered again. Who needs more (an answer to a request
that was sent before) sends again: see `mcp_bridge.py`. The protocol stands in `relay_agent.py`.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import attrs

from envoi_trace_core.background import background_tasks
from envoi_trace_core.errors import SandboxError, SandboxLostError
from envoi_trace_core.harness import relay_agent, relay_mux
from envoi_trace_core.harness.relay_mux import MAGIC, MAX_PAYLOAD, Mux, MuxStream, ProtocolError, StreamClosedError
from envoi_trace_core.protocols import Sandbox, Stream
from envoi_trace_core.sandboxing.bootstrap import find_python

FIRST_CONNECT_S = 60.0
HANDSHAKE_S = 30.0
LISTEN_S = 90.0
PING_EVERY_S = 10.0
SILENCE_S = 35.0
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0
LOST_AFTER_S = 120.0
MAX_GREETING_BYTES = 64 * 1024

Handler = Callable[["RelayStream"], Awaitable[None]]


class RelayStream(anyio.abc.ByteStream):
    """One byte stream through the relay, as anyio has them."""

    def __init__(self, stream: MuxStream) -> None:
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next data. Raises EndOfStream at the end, BrokenResourceError when the stream broke."""
        try:
            data = await self._stream.read(max_bytes)
        except StreamClosedError as error:
            raise anyio.BrokenResourceError(str(error)) from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send data; waits while the other side is slow. Raises BrokenResourceError."""
        try:
            await self._stream.write(item)
        except StreamClosedError as error:
            raise anyio.BrokenResourceError(str(error)) from error

    async def send_eof(self) -> None:
        """End this direction; the other one stays open."""
        await self._stream.write_eof()

    async def aclose(self) -> None:
        """End both directions."""
        self._stream.close()
        await anyio.lowlevel.checkpoint()


@attrs.frozen(kw_only=True)
class _Service:
    handler: Handler
    address: Mapping[str, str | int]


class _RelayBrokenError(Exception):
    """The stream ended or fell silent; why, in its message."""


@attrs.define(kw_only=True)
class Relay:
    """Made by `open_relay`."""

    sandbox: Sandbox
    report: Callable[[str], None] = attrs.field(default=lambda _line: None)
    on_lost: Callable[[SandboxError], None] = attrs.field(default=lambda _error: None)
    """Told once when the relay could not be opened for two minutes; it goes on trying."""

    _group: anyio.abc.TaskGroup = attrs.field(init=False)
    _argv: tuple[str, ...] = attrs.field(default=(), init=False)
    _mux: Mux | None = attrs.field(default=None, init=False)
    _connected: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _services: dict[str, _Service] = attrs.field(factory=dict, init=False)
    _answers: dict[str, str] = attrs.field(factory=dict, init=False)
    """Service to the error of its listening; empty text: it listens."""
    _answered: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _last_error: str = attrs.field(default="", init=False)
    connections: int = attrs.field(default=0, init=False)
    """How many times the stream was opened."""

    @property
    def directory(self) -> str:
        """The folder in the sandbox in which the relay's files and sockets are."""
        return f"{self.sandbox.support_dir}/relay"

    async def serve(self, socket_name: str, handler: Handler) -> str:
        """Hand each connection to a unix socket in the sandbox to `handler`; gives the socket's path.

        Raises:
            SandboxError: The socket can't be made.
        """
        path = f"{self.directory}/{socket_name}.sock"
        await self._offer(socket_name, _Service(handler=handler, address={"unix": path}))
        return path

    async def serve_tcp(self, port: int, handler: Handler) -> None:
        """Hand each connection to a port of the sandbox's 127.0.0.1 to `handler`.

        Raises:
            SandboxError: The port can't be listened on.
        """
        await self._offer(f"tcp-{port}", _Service(handler=handler, address={"tcp": port}))

    async def connect_tcp(self, port: int) -> RelayStream:
        """A connection to a port of the sandbox's 127.0.0.1; a refusal shows as a broken stream at the first use.

        Raises:
            SandboxLostError: The relay could not be opened within a minute.
        """
        return await self._connect({"tcp": port})

    async def connect_unix(self, path: str) -> RelayStream:
        """Likewise to a unix socket in the sandbox."""
        return await self._connect({"unix": path})

    async def _connect(self, target: dict[str, Any]) -> RelayStream:
        mux = await self._wait_connected()
        try:
            return RelayStream(mux.open(target))
        except StreamClosedError as error:
            raise SandboxLostError(f"The relay into the sandbox {self.sandbox.id} broke: {error}.") from error

    async def _wait_connected(self) -> Mux:
        with anyio.move_on_after(FIRST_CONNECT_S):
            while self._mux is None:
                await self._connected.wait()
            return self._mux
        raise SandboxLostError(
            f"The relay into the sandbox {self.sandbox.id} could not be opened within {FIRST_CONNECT_S:.0f} s: "
            f"{self._last_error or 'no answer'}"
        )

    async def _offer(self, name: str, service: _Service) -> None:
        self._services[name] = service
        mux = await self._wait_connected()
        if name not in self._answers:
            mux.control({"listen": name, **service.address})
        with anyio.move_on_after(LISTEN_S):
            while name not in self._answers:
                await self._answered.wait()
        error = self._answers.get(name, f"no answer within {LISTEN_S:.0f} s")
        if error:
            del self._services[name]
            raise SandboxError(f"The relay can't listen for {name} in the sandbox: {error}")

    # -- the stream below -------------------------------------------------------------------------

    async def keep_open(self) -> None:
        """Open the stream, and again each time it breaks."""
        pause_s, failing_since, told = FIRST_PAUSE_S, time.monotonic(), False
        while True:
            before = self.connections
            try:
                await self._one_stream()
            except (_RelayBrokenError, SandboxError) as error:
                self._last_error = str(error)
            if self.connections > before:
                pause_s, failing_since, told = FIRST_PAUSE_S, time.monotonic(), False
            elif time.monotonic() - failing_since > LOST_AFTER_S and not told:
                told = True
                self.on_lost(SandboxLostError(f"The relay into the sandbox can't be opened: {self._last_error}"))
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _one_stream(self) -> None:
        async with self.sandbox.stream(self._argv, cwd="/") as stream:
            rest = await _greeting(stream)
            mux = Mux(send=stream.write, first_number=1, on_open=self._opened, on_control=self._controlled)
            self._begin(mux)
            broken: list[str] = []

            async def until_broken(work: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
                try:
                    await work()
                except (SandboxError, ProtocolError, _RelayBrokenError) as error:
                    broken.append(str(error))
                scope.cancel()

            try:
                mux.feed(rest)
                async with anyio.create_task_group() as group:
                    for work in (lambda: _read(stream, mux), mux.write_frames, lambda: _watch(mux)):
                        group.start_soon(until_broken, work, group.cancel_scope)
            except ProtocolError as error:
                broken.append(str(error))
            finally:
                self._mux = None
                mux.close("the relay broke")
            raise _RelayBrokenError(broken[0] if broken else mux.closed_reason or "it ended")

    def _begin(self, mux: Mux) -> None:
        self._mux = mux
        self.connections += 1
        self._answers.clear()
        for name, service in self._services.items():
            mux.control({"listen": name, **service.address})
        self._connected.set()
        self._connected = anyio.Event()

    def _opened(self, stream: MuxStream, target: dict[str, Any]) -> None:
        service = self._services.get(str(target.get("service")))
        if service is None:
            stream.close("no such service")
        else:
            self._group.start_soon(self._handle, service, RelayStream(stream))

    async def _handle(self, service: _Service, stream: RelayStream) -> None:
        try:
            await service.handler(stream)
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            pass
        except Exception as error:  # noqa: BLE001 - one connection's fault must not take the others down
            self.report(f"A connection through the relay failed: {error!r:.300}")
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    def _controlled(self, message: dict[str, Any]) -> None:
        name = message.get("listen")
        if isinstance(name, str) and name in self._services:
            self._answers[name] = "" if message.get("ok") is True else str(message.get("error"))[:500]
            self._answered.set()
            self._answered = anyio.Event()

    async def install(self) -> None:
        """Put the agent's file into the sandbox."""
        python = await find_python(self.sandbox)
        path = f"{self.directory}/relay_agent.pyz"
        await self.sandbox.write_file(path, await anyio.to_thread.run_sync(_pack_agent))
        self._argv = (python, "-I", path)


def _pack_agent() -> bytes:
    """The agent and the protocol as one file that Python runs, with the names that they have here."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("envoi_trace_core/__init__.py", "")
        archive.writestr("envoi_trace_core/harness/__init__.py", "")
        for module in (relay_agent, relay_mux):
            assert module.__file__ is not None
            path = Path(module.__file__)
            archive.writestr(f"envoi_trace_core/harness/{path.name}", path.read_bytes())
        archive.writestr(
            "__main__.py",
            "import asyncio\nfrom envoi_trace_core.harness.relay_agent import main\nasyncio.run(main())\n",
        )
    return packed.getvalue()


async def _greeting(stream: Stream) -> bytes:
    """Read up to the agent's first word; gives what came after it."""
    said = b""
    with anyio.move_on_after(HANDSHAKE_S):
        while len(said) < MAX_GREETING_BYTES and (data := await stream.read()):
            said += data
            _, found, rest = said.partition(MAGIC)
            if found:
                return rest
    tail = stream.stderr_tail.decode(errors="replace").strip()[-1000:]
    raise _RelayBrokenError(tail or "the relay's agent in the sandbox did not answer")


async def _read(stream: Stream, mux: Mux) -> None:
    while data := await stream.read(4 * MAX_PAYLOAD):
        mux.feed(data)
    raise _RelayBrokenError(stream.stderr_tail.decode(errors="replace").strip()[-1000:] or "it ended")


async def _watch(mux: Mux) -> None:
    """Streams can fall silent without an end: ask now and then."""
    while time.monotonic() - mux.heard_at < SILENCE_S:
        mux.ping()
        await anyio.sleep(PING_EVERY_S)
    raise _RelayBrokenError(f"nothing came for {SILENCE_S:.0f} s")


@asynccontextmanager
async def open_relay(
    sandbox: Sandbox,
    *,
    report: Callable[[str], None] = lambda _line: None,
    on_lost: Callable[[SandboxError], None] = lambda _error: None,
) -> AsyncIterator[Relay]:
    """Open a relay into a sandbox and keep it open.

    Raises:
        SandboxError: It can't be opened (no Python in the sandbox, or its agent does not answer).
    """
    relay = Relay(sandbox=sandbox, report=report, on_lost=on_lost)
    await relay.install()
    async with background_tasks() as group:
        relay._group = group  # its owner
        group.start_soon(relay.keep_open)
        await relay._wait_connected()
        yield relay
