"""envd, the agent inside a sandbox: commands over connect-rpc (with the stubs of the SDK's own wheel), and files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from e2b.envd.client_shared import ENVD_JSON_CODEC
from e2b.envd.process import process_connect, process_pb
from e2b_fake.asgi import Exchange
from e2b_fake.state import FakeSandbox, State
from protobuf import Oneof

CHUNK_BYTES = 32768
QUEUE = 64


class Running:
    """A process that envd started. It goes on when its client goes away; what it writes then is lost."""

    def __init__(self, config: Any, pid: int, exited: asyncio.Future[int], stdin: int | None) -> None:
        self.config, self.pid, self.exited, self.stdin = config, pid, exited, stdin
        self.listeners: list[asyncio.Queue[Any]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def pump(self, fd: int, name: str) -> None:
        """Hand on what it writes; a slow client holds it up, a missing one does not."""
        reader = asyncio.StreamReader(limit=CHUNK_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
        )
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                await self.tell((name, chunk))
        finally:
            transport.close()

    async def tell(self, item: Any) -> None:
        for queue in list(self.listeners):
            while queue in self.listeners:
                try:
                    await asyncio.wait_for(queue.put(item), 0.5)
                    break
                except TimeoutError:
                    continue

    async def finish(self, pumps: list[asyncio.Task[None]]) -> None:
        """The end is told when the outputs are closed too, whoever holds them: so does the real one."""
        await asyncio.wait(pumps)
        try:
            code = await asyncio.shield(self.exited)
        except ConnectionError:
            return
        await self.tell(("end", code))

    def close_stdin(self) -> None:
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None


class Process(process_connect.Process):
    """The process service of one sandbox."""

    def __init__(self, sandbox: FakeSandbox, deadline_ms: str | None) -> None:
        self.sandbox, self.deadline_ms = sandbox, deadline_ms

    async def start(self, request: Any, _ctx: Any) -> AsyncIterator[Any]:
        running = await self._spawn(request)
        if self.deadline_ms:  # the real one kills the process at it
            delay_s = int(self.deadline_ms) / 1000
            asyncio.get_running_loop().call_later(delay_s, self._signal, running, signal.SIGKILL)
        async for event in self._events(running, process_pb.StartResponse):
            yield event

    async def connect(self, request: Any, _ctx: Any) -> AsyncIterator[Any]:
        async for event in self._events(self._find(request.process), process_pb.ConnectResponse):
            yield event

    async def list(self, _request: Any, _ctx: Any) -> Any:
        alive = [running for running in self.sandbox.processes.values() if not running.exited.done()]
        return process_pb.ListResponse(
            processes=[process_pb.ProcessInfo(config=running.config, pid=running.pid) for running in alive]
        )

    async def send_input(self, request: Any, _ctx: Any) -> Any:
        running = self._find(request.process)
        data = memoryview(request.input.input.value)
        while data:
            if running.stdin is None:
                raise ConnectError(Code.FAILED_PRECONDITION, "stdin is not open")
            try:
                data = data[os.write(running.stdin, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.005)
                self._find(request.process)
            except OSError as error:
                raise ConnectError(Code.INTERNAL, f"error writing to stdin: {error.strerror}") from error
        return process_pb.SendInputResponse()

    async def close_stdin(self, request: Any, _ctx: Any) -> Any:
        self._find(request.process).close_stdin()
        return process_pb.CloseStdinResponse()

    async def send_signal(self, request: Any, _ctx: Any) -> Any:
        self._signal(self._find(request.process), signal.Signals(int(request.signal)))
        return process_pb.SendSignalResponse()

    async def _spawn(self, request: Any) -> Running:
        config, template = request.process, self.sandbox.template
        cwd = config.cwd if config.has_field("cwd") and config.cwd else template.workdir
        wants_stdin = request.has_field("stdin") and request.stdin
        stdin_read, stdin_write = os.pipe() if wants_stdin else (os.open(os.devnull, os.O_RDONLY), None)
        (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe()
        theirs = [stdin_read, out_write, err_write]
        try:
            pid, exited = await self.sandbox.machine.spawn(
                [config.cmd, *config.args], cwd=cwd, env=dict(config.envs), fds=theirs
            )
        except OSError as error:
            for fd in (out_read, err_read, stdin_write):
                if fd is not None:
                    os.close(fd)
            raise ConnectError(Code.INVALID_ARGUMENT, f"{error.strerror or error}: {config.cmd}") from error
        finally:
            for fd in theirs:
                os.close(fd)
        if stdin_write is not None:
            os.set_blocking(stdin_write, False)
        running = Running(config, pid, exited, stdin_write)
        self.sandbox.processes[pid] = running
        # Its listener is there before its first output can be lost.
        running.listeners.append(asyncio.Queue(QUEUE))
        pumps = [
            asyncio.create_task(running.pump(out_read, "stdout")),
            asyncio.create_task(running.pump(err_read, "stderr")),
        ]
        running.tasks = [*pumps, asyncio.create_task(running.finish(pumps))]
        exited.add_done_callback(lambda _: running.close_stdin())
        return running

    async def _events(self, running: Running, kind: Any) -> AsyncIterator[Any]:
        def event(field: str, value: Any) -> Any:
            return kind(event=process_pb.ProcessEvent(event=Oneof(field, value)))

        if kind is process_pb.StartResponse:
            queue = running.listeners[0]
        else:
            running.listeners.append(queue := asyncio.Queue(QUEUE))
        broken = asyncio.create_task(self.sandbox.broken.wait())
        try:
            yield event("start", process_pb.ProcessEvent.StartEvent(pid=running.pid))
            while True:
                taking = asyncio.create_task(queue.get())
                done, _ = await asyncio.wait({taking, broken}, return_when=asyncio.FIRST_COMPLETED)
                if taking not in done:
                    taking.cancel()
                    text = f"the connection to sandbox {self.sandbox.id} ended before the stream completed"
                    raise ConnectError(Code.UNAVAILABLE, text)
                name, value = taking.result()
                if name == "end":
                    yield event("end", end_event(value))
                    return
                yield event("data", process_pb.ProcessEvent.DataEvent(output=Oneof(name, value)))
        finally:
            broken.cancel()
            running.listeners.remove(queue)

    def _find(self, selector: Any) -> Running:
        running = self.sandbox.processes.get(selector.selector.value)
        if running is None or running.exited.done():
            raise ConnectError(Code.NOT_FOUND, f"process with pid {selector.selector.value} not found")
        return running

    def _signal(self, running: Running, number: int) -> None:
        """To that one process: envd knows nothing of its children."""
        if not running.exited.done() and not self.sandbox.machine.is_dead:
            asyncio.get_running_loop().create_task(self._send(running, number))

    async def _send(self, running: Running, number: int) -> None:
        with contextlib.suppress(OSError):
            await self.sandbox.machine.call("signal", pid=running.pid, signal=int(number))


def end_event(code: int) -> Any:
    """As envd tells the end of a process."""
    if code >= 0:
        more = {"error": f"exit status {code}"} if code else {}
        return process_pb.ProcessEvent.EndEvent(exit_code=code, exited=True, status=f"exit status {code}", **more)
    name = signal.strsignal(-code) or str(-code)
    return process_pb.ProcessEvent.EndEvent(
        exit_code=-1, exited=False, status=f"signal: {name.lower()}", error=f"signal: {name.lower()}"
    )


async def serve(state: State, exchange: Exchange) -> None:
    """Answer one request to the address of the sandboxes."""
    sandbox_id = exchange.headers.get("e2b-sandbox-id", "")
    sandbox = state.sandboxes.get(sandbox_id)
    if sandbox is None or sandbox.state != "running":  # this is the answer of the proxy before envd
        message = {"sandboxId": sandbox_id, "message": "The sandbox was not found", "code": 502}
        return await exchange.reply(502, message)
    if exchange.path == "/health":
        return await exchange.reply(204)
    if exchange.headers.get("x-access-token") != sandbox.token:
        return await exchange.reply(401, {"code": 401, "message": "bad access token"})
    if exchange.path.startswith("/process.Process/"):
        service = Process(sandbox, exchange.headers.get("connect-timeout-ms"))
        if exchange.path.endswith("/Start"):
            state.deadlines_ms.append(service.deadline_ms)
        app = process_connect.ProcessASGIApplication(service, codecs=[ENVD_JSON_CODEC], read_max_bytes=None)
        return await app(exchange.scope, exchange.receive, exchange.send)
    if exchange.path == "/files":
        query = dict(urllib.parse.parse_qsl(exchange.scope["query_string"].decode()))
        return await (download if exchange.method == "GET" else upload)(sandbox, exchange, query["path"])
    return await exchange.reply(404, {"code": 404, "message": exchange.path})


async def download(sandbox: FakeSandbox, exchange: Exchange, path: str) -> None:
    try:
        reply, (fd,) = await sandbox.machine.call("open_read", path=path)
    except OSError as error:
        status = 404 if error.errno == 2 else 400
        await exchange.reply(status, {"code": status, "message": f"path '{path}': {error.strerror}"})
        return
    with os.fdopen(fd, "rb") as file:
        await exchange.begin(200, [(b"content-length", str(reply["size"]).encode())])
        while chunk := file.read(1 << 18):
            await exchange.more(chunk)
        await exchange.finish()


async def upload(sandbox: FakeSandbox, exchange: Exchange, path: str) -> None:
    if "octet-stream" not in exchange.headers.get("content-type", ""):
        return await exchange.reply(400, {"code": 400, "message": "this fake takes application/octet-stream"})
    try:
        _, (fd,) = await sandbox.machine.call("open_write", path=path)
    except OSError as error:
        await exchange.body()
        return await exchange.reply(400, {"code": 400, "message": f"error opening '{path}': {error.strerror}"})
    with os.fdopen(fd, "wb") as file:
        async for chunk in exchange.chunks():
            file.write(chunk)
    name = path.rpartition("/")[2]
    return await exchange.reply(200, [{"name": name, "type": "file", "path": path}])
