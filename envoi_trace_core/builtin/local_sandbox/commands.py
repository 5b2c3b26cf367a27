"""Commands in a local sandbox: run to their end, or live as a stream."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from envoi_trace_core.builtin.local_sandbox.control import Connection, checked, close_all, connect
from envoi_trace_core.builtin.local_sandbox.folders import SandboxFolder
from envoi_trace_core.errors import SandboxLostError, SandboxTimeoutError
from envoi_trace_core.protocols import CommandResult

CHUNK_BYTES = 1 << 18
DRAIN_S = 0.2
"""How long outputs may stay open after the command's end: a process in its background may hold them for ever."""
LEAVE_S = 5.0
OVERTIME_S = 15.0
"""Init keeps the deadlines; past one by this much, it is taken for dead."""
STDERR_TAIL_BYTES = 64 * 1024


class _Output:
    """The beginning of one output; the rest is read and dropped, so that the command is never held up."""

    def __init__(self, fd: int, max_bytes: int) -> None:
        self._fd = fd
        self._max_bytes = max_bytes
        self.data = bytearray()
        self.truncated = False
        self.ended = anyio.Event()

    async def drain(self) -> None:
        """Read until the output ends."""
        while not self.ended.is_set():
            await anyio.wait_readable(self._fd)
            self.take()
            await anyio.lowlevel.checkpoint()  # a command that never pauses must not hold up everything else

    def take(self) -> bool:
        """Read what is there, up to a chunk; False when there was nothing."""
        try:
            chunk = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self.ended.set()
            return False
        kept = chunk[: self._max_bytes - len(self.data)]
        self.data += kept
        self.truncated = self.truncated or len(kept) < len(chunk)
        return True

    def take_rest(self) -> None:
        """Read what the pipe still holds of the command that ended."""
        for _ in range(16):
            if self.ended.is_set() or not self.take():
                return


async def run_command(
    folder: SandboxFolder, message: dict[str, Any], *, stdin: bytes, max_output_bytes: int, timeout_s: float
) -> CommandResult:
    """Run a command to its end; see `Sandbox.run`."""
    connection, (stdin_fd, stdout_fd, stderr_fd) = await _start(folder, {**message, "timeout_s": timeout_s})
    stdout, stderr = _Output(stdout_fd, max_output_bytes), _Output(stderr_fd, max_output_bytes)
    end: dict[str, Any] | None = None
    feeder = _Feeder(stdin_fd, stdin)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feeder.feed)
            tasks.start_soon(stdout.drain)
            tasks.start_soon(stderr.drain)
            with anyio.move_on_after(timeout_s + OVERTIME_S):
                end = await connection.receive()
            with anyio.move_on_after(DRAIN_S):
                await stdout.ended.wait()
                await stderr.ended.wait()
            tasks.cancel_scope.cancel()
        stdout.take_rest()
        stderr.take_rest()
    finally:
        if end is None:
            await _end_command(connection)
        connection.close()
        feeder.close()
        close_all([stdout_fd, stderr_fd])
    if end is None:
        raise SandboxLostError(f"The local sandbox {folder.id} ended, or stopped to answer, while a command ran in it.")
    if end["timed_out"]:
        raise SandboxTimeoutError(
            f"The command ran longer than {timeout_s:g} s and was killed.",
            stdout=bytes(stdout.data),
            stderr=bytes(stderr.data),
        )
    return CommandResult(
        exit_code=end["exit_code"],
        stdout=bytes(stdout.data),
        stderr=bytes(stderr.data),
        truncated=stdout.truncated or stderr.truncated,
    )


class _Feeder:
    """Writes to a command's stdin; a command that does not want it all is left alone."""

    def __init__(self, fd: int, data: bytes) -> None:
        self._fd = fd
        self._data = memoryview(data)
        self._closed = False

    async def feed(self) -> None:
        """Write all, then close."""
        try:
            while self._data:
                try:
                    self._data = self._data[os.write(self._fd, self._data[:CHUNK_BYTES]) :]
                except BlockingIOError:
                    await anyio.wait_writable(self._fd)
        except BrokenPipeError:
            pass
        self.close()

    def close(self) -> None:
        """Close stdin, once."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)


class LocalStream:
    """A live command; see `Stream`."""

    def __init__(self, connection: Connection, fds: tuple[int, int, int]) -> None:
        self._connection = connection
        self._stdin, self._stdout, self._stderr = fds
        self._stdin_open = True
        self._tail = bytearray()
        self._end: dict[str, Any] | None = None
        self._lost = False
        self._waiting = anyio.Lock()

    async def read(self, max_bytes: int = 65536) -> bytes:
        """The next output; empty at the end."""
        while True:
            try:
                data = os.read(self._stdout, max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._stdout)
                continue
            if not data:
                self._look_for_loss()
            return data

    async def write(self, data: bytes) -> None:
        """Feed the command."""
        if not self._stdin_open:
            raise SandboxLostError("The command's input is closed.")
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._stdin, left[:CHUNK_BYTES]) :]
            except BlockingIOError:
                await anyio.wait_writable(self._stdin)
            except OSError as error:
                raise SandboxLostError("The command has ended, or reads no more.") from error

    async def close_stdin(self) -> None:
        """End the command's input."""
        if self._stdin_open:
            self._stdin_open = False
            anyio.notify_closing(self._stdin)
            os.close(self._stdin)

    async def wait(self) -> int:
        """Wait for the end; gives the exit code."""
        async with self._waiting:
            if self._end is None and not self._lost:
                self._end = await self._connection.receive()
                self._lost = self._end is None
        if self._end is None:
            raise SandboxLostError("The local sandbox ended while a command ran in it.")
        code: int = self._end["exit_code"]
        return code

    async def kill(self) -> None:
        """Kill the command's process group."""
        await self._connection.send({"op": "kill"})

    @property
    def stderr_tail(self) -> bytes:
        """The last that the command wrote to stderr."""
        self._read_stderr()
        return bytes(self._tail[-STDERR_TAIL_BYTES:])

    def watch_stderr(self) -> None:
        """Read stderr whenever there is some. A callback, not a task: errors of the caller stay as they are."""
        asyncio.get_running_loop().add_reader(self._stderr, self._read_stderr)

    async def leave(self) -> None:
        """Kill what still runs, and let go of everything."""
        loop = asyncio.get_running_loop()
        if self._end is None and not self._lost:
            await _end_command(self._connection)
        loop.remove_reader(self._stderr)
        self._connection.close()
        await self.close_stdin()
        close_all([self._stdout, self._stderr])

    def _read_stderr(self) -> None:
        try:
            data = os.read(self._stderr, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._stderr)
        self._tail += data
        if len(self._tail) > 4 * STDERR_TAIL_BYTES:
            del self._tail[:-STDERR_TAIL_BYTES]

    def _look_for_loss(self) -> None:
        """An output that ends because the whole sandbox ended is no end of the command.

        Init's descriptors are closed before the processes of its namespace are killed, so the loss shows by now.
        """
        if self._end is None and not self._lost and self._connection.is_broken():
            self._lost = True
        if self._lost:
            raise SandboxLostError("The local sandbox ended while a command ran in it.")


@asynccontextmanager
async def stream_command(folder: SandboxFolder, message: dict[str, Any]) -> AsyncGenerator[LocalStream]:
    """Run a command with live streams; see `Sandbox.stream`."""
    connection, fds = await _start(folder, message)
    stream = LocalStream(connection, fds)
    stream.watch_stderr()
    try:
        yield stream
    finally:
        await stream.leave()


async def _start(folder: SandboxFolder, message: dict[str, Any]) -> tuple[Connection, tuple[int, int, int]]:
    """Have init start a command; gives our ends of its stdin, stdout and stderr."""
    connection = await connect(folder)
    pipes = [os.pipe() for _ in range(3)]
    theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
    ours = (pipes[0][1], pipes[1][0], pipes[2][0])
    try:
        try:
            await connection.send(message, theirs)
        finally:
            close_all(theirs)
        checked(await connection.receive())
    except BaseException:
        connection.close()
        close_all(ours)
        raise
    for fd in ours:
        os.set_blocking(fd, False)
    return connection, ours


async def _end_command(connection: Connection) -> None:
    """Kill a command and wait until it is dead, for a bounded time; done also when the caller is cancelled."""
    with anyio.move_on_after(LEAVE_S, shield=True):
        try:
            await connection.send({"op": "kill"})
            await connection.receive()
        except SandboxLostError:
            pass
