"""One command in a Modal sandbox, below the marking shell: started, fed, read, killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import modal  # noqa: TID253

from envoi_trace_core.errors import EnvoiTraceError, SandboxError, SandboxLostError
from envoi_trace_core.sandboxing.marks import NO_INPUT, Mark, MarkedOutput, new_token, wrapped
from envoi_trace_modal.sandbox.calls import quietly
from envoi_trace_modal.sandbox.failures import one_line, translate

START_S = 60.0
KILL_S = 20.0
SETTLE_S = 15.0
LEAVE_S = 10.0
PIECE_BYTES = 1 << 20
KILLED = 137
ENVIRONMENT = {"LANG": "C.UTF-8"}

Sink = Callable[[bool, bytes], Awaitable[None]]
"""Given what the command writes: whether it is stdout, and the bytes. While it waits, that output waits."""

_KILL = 'kill -s KILL -- "-$1" 2>/dev/null; :'


@attrs.define
class Command:
    """A command that runs, or has run."""

    sandbox: modal.Sandbox
    argv: tuple[str, ...]
    cwd: str
    token: str
    sink: Sink
    on_end: Callable[[], None]
    process: Any = attrs.field(default=None, init=False)
    group: int | None = attrs.field(default=None, init=False)
    """Its process group, once the shell has told it."""
    exit_code: int | None = attrs.field(default=None, init=False)
    killed: bool = attrs.field(default=False, init=False)
    failure: EnvoiTraceError | None = attrs.field(default=None, init=False)
    begun: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Both outputs are over; then `exit_code` or `failure` is known, or `settle` finds it."""
    _open_outputs: int = attrs.field(default=2, init=False)

    async def start(self, command_line: Sequence[str], env: Mapping[str, str], timeout_s: float | None) -> None:
        """Ask for it.

        Args:
            command_line: With the marking shell.
            env: Added to the image's and the sandbox's.
            timeout_s: Modal kills it after that, should this program have died.

        Raises:
            SandboxLostError: The sandbox is gone.
            SandboxError: It could not be started.
        """
        try:
            self.process = await self.sandbox.exec.aio(
                *command_line,
                env={**ENVIRONMENT, **env},
                timeout=None if timeout_s is None else int(timeout_s),
                text=False,
            )
        except Exception as error:
            what = "The command could not be started"
            raise translate(error, what, sandbox_id=self.sandbox.object_id) from error

    async def pump(self, is_stdout: bool) -> None:
        """Take one output until the command's own part of it is over."""
        output = MarkedOutput(self.token)
        source = self.process.stdout if is_stdout else self.process.stderr
        try:
            async for data in source:
                if await self._sort(is_stdout, output.feed(data)):
                    return
            if rest := output.rest():
                await self.sink(is_stdout, rest)
        except Exception as error:  # noqa: BLE001 - told by `settle`
            what = "The command's output broke off"
            self.failure = self.failure or translate(error, what, sandbox_id=self.sandbox.object_id)
            self._open_outputs = 1
        finally:
            self._open_outputs -= 1
            if self._open_outputs == 0 or self.failure is not None:
                self.finish()

    def finish(self) -> None:
        """There is no more output, or nobody waits for it."""
        self.begun.set()
        self.ended.set()
        self.on_end()

    async def _sort(self, is_stdout: bool, pieces: Sequence[bytes | Mark]) -> bool:
        """Pass data on, and note marks; whether one ended this output."""
        for piece in pieces:
            if isinstance(piece, bytes):
                await self.sink(is_stdout, piece)
                continue
            match piece.words:
                case ("start", pid) if pid.isdecimal():
                    self.group = int(pid)
                    self.begun.set()
                case ("nocwd",):
                    self.failure = SandboxError(f"{self.cwd} is no folder of the sandbox.")
                    return True
                case ("nocommand",):
                    self.failure = SandboxError(f"{self.argv[0]!r} is no command in the sandbox.")
                    return True
                case ("end", code) if code.isdecimal():
                    self.exit_code = int(code) & 0xFF
                    return True
                case ("end",):
                    return True
        return False

    async def settle(self) -> int:
        """The exit code of a command that has ended.

        Raises:
            SandboxLostError: It ended because the sandbox did, or is out of reach.
            SandboxError: It could not be started.
        """
        if self.failure is not None:
            raise self.failure
        if self.exit_code is None:
            self.exit_code = KILLED if self.killed else await self._ask()
        return self.exit_code

    async def _ask(self) -> int:
        """Its outputs ended without a mark: someone killed the shell, or the sandbox is over."""
        sandbox_id = self.sandbox.object_id
        with anyio.move_on_after(SETTLE_S):
            try:
                code = int(await self.process.wait.aio())
                ended = await self.sandbox.poll.aio()
            except Exception as error:
                raise translate(error, "The command's end is unknown", sandbox_id=sandbox_id) from error
            if ended is None and self.group is not None:
                return KILLED if code < 0 else code
            if ended is None:
                raise SandboxError(f"The sandbox can't run commands: sh or setsid ended with {code}.")
        raise SandboxLostError(f"The Modal sandbox {sandbox_id} ended while a command ran.", retryable=True)

    async def kill(self) -> None:
        """Kill its group; bounded, done also when the caller is cancelled, and silent: the sandbox may be gone."""
        if self.exit_code is not None or self.group is None:
            return
        self.killed = True

        async def once() -> None:
            killing = await self.sandbox.exec.aio("sh", "-c", _KILL, "sh", str(self.group), text=False)
            await killing.wait.aio()

        await quietly(once, timeout_s=KILL_S)

    async def write(self, data: bytes) -> None:
        """Feed it.

        Raises:
            SandboxLostError: It has ended, or the sandbox is out of reach.
        """
        view = memoryview(data)
        for at in range(0, len(view), PIECE_BYTES):
            await self._drain(view[at : at + PIECE_BYTES])

    async def close_input(self) -> None:
        """End its input.

        Raises:
            SandboxLostError: It has ended, or the sandbox is out of reach.
        """
        await self._drain(None)

    async def _drain(self, data: memoryview | None) -> None:
        try:
            if data is None:
                self.process.stdin.write_eof()
            else:
                self.process.stdin.write(data)
            await self.process.stdin.drain.aio()
        except Exception as error:
            raise SandboxLostError(f"The command has ended, or can't be fed: {one_line(error)}.") from error


@asynccontextmanager
async def running(
    sandbox: modal.Sandbox,
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    sink: Sink,
    has_input: bool,
    words_path: str = "",
    timeout_s: float | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> AsyncGenerator[Command]:
    """Start a command; what of its group runs when the context is left is killed.

    Raises:
        SandboxError: It could not be started.
        SandboxLostError: The sandbox is gone.
    """
    command = Command(sandbox, tuple(argv), cwd, new_token(), sink, on_end)
    words = () if words_path else argv
    input_path = "" if has_input else NO_INPUT
    line = wrapped(words, token=command.token, cwd=cwd, input_path=input_path, words_path=words_path)
    # A cancel that comes before the group's number is known would leave a process that nobody can kill.
    with anyio.move_on_after(START_S, shield=True) as starting:
        await command.start(line, env, timeout_s)
    if starting.cancelled_caught:
        raise SandboxLostError(f"The Modal sandbox {sandbox.object_id} starts no command.", retryable=True)
    # No task group: readers leave streams from generators, where no cancel scope may be open across a yield.
    pumps = [asyncio.create_task(command.pump(is_stdout)) for is_stdout in (True, False)]
    try:
        with anyio.move_on_after(START_S, shield=True):
            await command.begun.wait()
        if not command.begun.is_set():
            raise SandboxLostError(
                f"The Modal sandbox {sandbox.object_id} does not run a command that it started.", retryable=True
            )
        if command.group is None:
            await command.settle()
        yield command
    finally:
        await command.kill()
        for pump in pumps:
            pump.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait(pumps, timeout=LEAVE_S)
