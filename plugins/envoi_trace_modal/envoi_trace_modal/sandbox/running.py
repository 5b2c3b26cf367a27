"""Commands to their end, and commands with live streams."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import attrs
import modal  # noqa: TID253

from envoi_trace_core.errors import EnvoiTraceError, SandboxLostError, SandboxTimeoutError
from envoi_trace_core.protocols import CommandResult
from envoi_trace_modal.sandbox.commands import Command, running

AFTER_KILL_S = 5.0
AFTER_TIMEOUT_S = 60.0
"""A command whose orchestrator died is killed by Modal so long after its own deadline."""
AFTER_END_S = 2.0
STDERR_TAIL_BYTES = 64 * 1024
WAITING_PIECES = 32


@attrs.define
class _Kept:
    """The beginning of an output; the rest is dropped, so that the command is never held up."""

    max_bytes: int
    # Gives its bytes without a copy: an output may be a file of a gigabyte.
    data: io.BytesIO = attrs.field(factory=io.BytesIO, init=False)
    truncated: bool = attrs.field(default=False, init=False)

    def take(self, data: bytes) -> None:
        kept = data[: max(0, self.max_bytes - self.data.tell())]
        self.data.write(kept)
        self.truncated = self.truncated or len(kept) < len(data)


async def run_command(
    sandbox: modal.Sandbox,
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    stdin: bytes,
    words_path: str,
    max_output_bytes: int,
    timeout_s: float,
) -> CommandResult:
    """Run a command to its end; see `Sandbox.run`. With `words_path`, the command line stands in that file."""
    kept = {True: _Kept(max_output_bytes), False: _Kept(max_output_bytes)}

    async def sink(is_stdout: bool, data: bytes) -> None:
        kept[is_stdout].take(data)

    exit_code = None
    with anyio.move_on_after(timeout_s) as scope:
        async with running(
            sandbox,
            argv,
            cwd=cwd,
            env=env,
            sink=sink,
            has_input=bool(stdin),
            words_path=words_path,
            timeout_s=timeout_s + AFTER_TIMEOUT_S,
        ) as command:
            if stdin:
                await _feed(command, stdin)
            await command.ended.wait()
            exit_code = await command.settle()
    if exit_code is None:
        assert scope.cancelled_caught
        raise SandboxTimeoutError(
            f"The command ran longer than {timeout_s:g} s and was killed.",
            stdout=kept[True].data.getvalue(),
            stderr=kept[False].data.getvalue(),
        )
    return CommandResult(
        exit_code=exit_code,
        stdout=kept[True].data.getvalue(),
        stderr=kept[False].data.getvalue(),
        truncated=kept[True].truncated or kept[False].truncated,
    )


async def _feed(command: Command, data: bytes) -> None:
    """Write all, then close, unless the command ends before; one that does not want it all is left alone."""
    async with anyio.create_task_group() as tasks:

        async def feed() -> None:
            with suppress(EnvoiTraceError):  # whether the sandbox is lost, the command's output tells
                await command.write(data)
                await command.close_input()

        tasks.start_soon(feed)
        await command.ended.wait()
        # It fails by itself now; when it is cancelled at that moment, the SDK complains that nobody took its error.
        tasks.cancel_scope.deadline = anyio.current_time() + AFTER_END_S


class ModalStream:
    """A live command; see `Stream`."""

    def __init__(self) -> None:
        self.command: Command
        self._into, self._pieces = anyio.create_memory_object_stream[bytes](WAITING_PIECES)
        self._unread = b""
        self._tail: deque[bytes] = deque()
        self._writing = anyio.Lock()
        self._stdin_open = True

    async def read(self, max_bytes: int = 65536) -> bytes:
        """The next output; empty at the end."""
        if not self._unread:
            try:
                self._unread = await self._pieces.receive()
            except anyio.EndOfStream:
                await self.command.settle()
                return b""
        piece, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        return piece

    async def write(self, data: bytes) -> None:
        """Feed the command."""
        async with self._writing:
            if not self._stdin_open or self.command.ended.is_set():
                raise SandboxLostError("The command's input is closed.")
            await self.command.write(data)

    async def close_stdin(self) -> None:
        """End the command's input."""
        async with self._writing:
            if self._stdin_open and not self.command.ended.is_set():
                self._stdin_open = False
                with suppress(SandboxLostError):  # it has ended; or reading tells
                    await self.command.close_input()

    async def wait(self) -> int:
        """Wait for the end; gives the exit code."""
        await self.command.ended.wait()
        return await self.command.settle()

    async def kill(self) -> None:
        """Kill the command's process group."""
        if not self.command.ended.is_set():
            await self.command.kill()
            with anyio.move_on_after(AFTER_KILL_S):
                await self.command.ended.wait()
            self.command.finish()  # what left the group may hold its outputs open

    @property
    def stderr_tail(self) -> bytes:
        """The last that the command wrote to stderr."""
        return b"".join(self._tail)[-STDERR_TAIL_BYTES:]

    async def take(self, is_stdout: bool, data: bytes) -> None:
        """What the command wrote; a reader who is slow holds stdout up."""
        if is_stdout:
            with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the reader has left
                await self._into.send(data)
            return
        self._tail.append(data)
        while sum(map(len, self._tail)) - len(self._tail[0]) >= STDERR_TAIL_BYTES:
            self._tail.popleft()

    def end(self) -> None:
        """The command has ended: the reader gets what is left, and then the end."""
        self._into.close()

    def close(self) -> None:
        """Let go of what was not read."""
        self._into.close()
        self._pieces.close()


@asynccontextmanager
async def stream_command(
    sandbox: modal.Sandbox, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], words_path: str
) -> AsyncGenerator[ModalStream]:
    """Run a command with live streams; see `Sandbox.stream`."""
    stream = ModalStream()
    opened = running(
        sandbox, argv, cwd=cwd, env=env, sink=stream.take, has_input=True, words_path=words_path, on_end=stream.end
    )
    async with opened as stream.command:
        try:
            yield stream
        finally:
            stream.close()
