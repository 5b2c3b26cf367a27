"""The sandbox's end of the relay: a program that speaks `relay_mux` on its stdin and stdout.

`relay.py` packs it with `relay_mux.py` into one file for the sandbox, so it uses the standard library only, and
Python 3.9 or newer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import Any

from envoi_trace_core.harness.relay_mux import MAGIC, MAX_PAYLOAD, Mux, MuxStream, ProtocolError, StreamClosedError

SILENCE_S = 45.0
"""Without a word from the orchestrator for that long, the stream is dead although nobody said so."""


class Agent:
    """Connects streams of the relay with sockets of the sandbox."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.AbstractServer] = []
        self.mux = Mux(send=self._send, first_number=2, on_open=self._connect, on_control=self._control)

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve until the orchestrator is gone."""
        self._writer.write(MAGIC)
        self._start(self._write_frames())
        try:
            while True:
                data = await asyncio.wait_for(reader.read(65536), SILENCE_S)
                if not data:
                    break
                self.mux.feed(data)
        finally:
            self.mux.close("the relay ended")

    async def _write_frames(self) -> None:
        with contextlib.suppress(OSError):
            await self.mux.write_frames()
        os._exit(0)  # the orchestrator reads no more, so there is nobody left to clean up for

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connect(self, stream: MuxStream, target: dict[str, Any]) -> None:
        self._start(self._connect_and_pump(stream, target))

    async def _connect_and_pump(self, stream: MuxStream, target: dict[str, Any]) -> None:
        try:
            if "tcp" in target:
                reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", int(target["tcp"])), 10)
            else:
                reader, writer = await asyncio.open_connection(sock=_connect_unix(str(target["unix"])))
        except (OSError, ValueError, KeyError, asyncio.TimeoutError) as error:  # noqa: UP041 (3.9: not the same)
            stream.close(f"{type(error).__name__}: {error}")
            return
        await pump(stream, reader, writer)

    def _control(self, message: dict[str, Any]) -> None:
        self._start(self._listen(message))

    async def _listen(self, message: dict[str, Any]) -> None:
        service = message.get("listen")

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                stream = self.mux.open({"service": service})
            except StreamClosedError:
                writer.close()
                return
            await pump(stream, reader, writer)

        try:
            if "tcp" in message:
                server = await self._listen_tcp(accept, int(message["tcp"]))
            else:
                server = await asyncio.start_unix_server(accept, sock=_bind_unix(str(message["unix"])))
        except (OSError, ValueError, KeyError) as error:
            self.mux.control({**message, "error": f"{type(error).__name__}: {error}"})
        else:
            self._servers.append(server)
            self.mux.control({**message, "ok": True})

    async def _listen_tcp(self, accept: Any, port: int) -> asyncio.AbstractServer:
        for _ in range(int(SILENCE_S) + 10):  # an agent before this one may hold the port until it is silent enough
            with contextlib.suppress(OSError):
                return await asyncio.start_server(accept, "127.0.0.1", port)
            await asyncio.sleep(1)
        return await asyncio.start_server(accept, "127.0.0.1", port)


async def pump(stream: MuxStream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes both ways until both ends are done or one breaks."""

    async def outward() -> None:
        while True:
            data = await reader.read(MAX_PAYLOAD)
            if not data:
                break
            await stream.write(data)
        await stream.write_eof()

    async def inward() -> None:
        while True:
            data = await stream.read()
            if not data:
                break
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    tasks = [asyncio.ensure_future(outward()), asyncio.ensure_future(inward())]
    try:
        await asyncio.gather(*tasks)
    except (OSError, StreamClosedError):
        pass
    finally:
        for task in tasks:
            task.cancel()
        stream.close()
        writer.close()


def _bind_unix(path: str) -> socket.socket:
    """Listen at `path`, taking the place of whoever did before; the path never names nothing in between."""
    directory, name = os.path.split(path)
    os.makedirs(directory, exist_ok=True)  # noqa: PTH103
    os.chdir(directory)  # an address holds about 100 bytes, a path may be longer
    new_name = f"{name[:20]}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new_name)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(new_name)
        listener.listen(64)
        os.rename(new_name, name)  # noqa: PTH104
    except OSError:
        listener.close()
        raise
    return listener


def _connect_unix(path: str) -> socket.socket:
    directory, name = os.path.split(path)
    os.chdir(directory or "/")
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(5)
        connection.connect(name)
        connection.setblocking(False)
    except OSError:
        connection.close()
        raise
    return connection


async def main() -> None:
    """Serve on stdin and stdout."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout.buffer)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    with contextlib.suppress(asyncio.TimeoutError, ProtocolError, OSError):
        await Agent(writer).run(reader)
    os._exit(0)
