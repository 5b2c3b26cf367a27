"""Commands in an E2B sandbox: run to their end, or live as a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

import anyio
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from envoi_trace_core.errors import EnvoiTraceError, SandboxError, SandboxLostError, SandboxTimeoutError
from envoi_trace_core.protocols import CommandResult
from envoi_trace_core.sandboxing.marks import Mark, MarkedOutput, new_token, wrapped
from envoi_trace_e2b.envd import OPEN_S, Data, Ended, Envd, Process
from envoi_trace_e2b.failures import translate

KILL_S = 15.0
AFTER_KILL_S = 5.0
STDERR_TAIL_BYTES = 64 * 1024
WAITING_PIECES = 32
KILLED = 137

# The group may be of a sandbox's earlier life: a number that is not there any more is fine.
_KILL = 'kill -s KILL -- "-$1" 2>/dev/null; :'


@attrs.define
class Command:
    """A command that runs below the marking shell."""

    process: Process
    argv: tuple[str, ...]
    token: str
    cwd: str
    group: int | None = attrs.field(default=None, init=False)
    """Its process group, once the shell has told it."""
    exit_code: int | None = attrs.field(default=None, init=False)
    killed: bool = attrs.field(default=False, init=False)
    _marked: dict[bool, MarkedOutput] = attrs.field(init=False)
    _pieces: deque[Data] = attrs.field(factory=deque, init=False)
    """Not yet given."""
    _ended: set[bool] = attrs.field(factory=set, init=False)
    """Outputs of which the command's own part is over: True is stdout."""

    def __attrs_post_init__(self) -> None:
        self._marked = {True: MarkedOutput(self.token), False: MarkedOutput(self.token)}

    async def begin(self) -> None:
        """Wait until it runs.

        Raises:
            SandboxError: It could not be started.
            SandboxLostError: The sandbox is gone.
        """
        while self.group is None and len(self._ended) < 2:
            self._sort(await self.process.next())
        if self.group is None:
            said = b"".join(piece.data for piece in self._pieces).decode(errors="replace").strip()
            raise SandboxError(f"The sandbox can't run commands: {said or 'it has no sh or no setsid'}.")

    async def outputs(self) -> AsyncGenerator[Data]:
        """What it writes, until it has ended; then `exit_code` is known.

        Raises:
            SandboxLostError: The stream broke.
        """
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if len(self._ended) == 2:
                return
            self._sort(await self.process.next())

    def _sort(self, event: Data | Ended) -> None:
        if isinstance(event, Ended):
            for is_stdout, output in self._marked.items():
                if rest := output.rest():
                    self._pieces.append(Data(is_stdout=is_stdout, data=rest))
            self._ended = {True, False}
            if self.exit_code is None:
                self.exit_code = KILLED if self.killed else event.exit_code
            return
        if event.is_stdout in self._ended:
            return  # of what the command left in its background
        for piece in self._marked[event.is_stdout].feed(event.data):
            if isinstance(piece, bytes):
                self._pieces.append(Data(is_stdout=event.is_stdout, data=piece))
            elif self._take(piece):
                self._ended.add(event.is_stdout)
                return

    def _take(self, mark: Mark) -> bool:
        """Note a mark; whether it ends its output."""
        match mark.words:
            case ("start", pid) if pid.isdecimal():
                self.group = int(pid)
            case ("nocwd",):
                raise SandboxError(f"{self.cwd} is no folder of the sandbox.")
            case ("nocommand",):
                raise SandboxError(f"{self.argv[0]!r} is no command in the sandbox.")
            case ("end", code) if code.isdecimal():
                self.exit_code = int(code) & 0xFF
                return True
            case ("end",):
                return True
        return False


@asynccontextmanager
async def _open(
    envd: Envd, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], stdin: bool, input_path: str = ""
) -> AsyncGenerator[Command]:
    """Start a command; whatever of its group runs when the context is left before the command's end is killed."""
    token = new_token()
    command_line = wrapped(argv, token=token, cwd=cwd, input_path=input_path)
    async with envd.start(command_line, env={"LANG": "C.UTF-8", **env}, stdin=stdin) as process:
        command = Command(process, tuple(argv), token, cwd)
        # A cancel that comes before the group's number is known would leave a process that nobody can kill.
        with anyio.move_on_after(OPEN_S, shield=True) as scope:
            await command.begin()
        if scope.cancelled_caught:
            raise SandboxLostError(f"The E2B sandbox {envd.id} does not run a command that it started.", retryable=True)
        try:
            yield command
        finally:
            if command.exit_code is None:
                await kill_command(envd, command)


async def kill_command(envd: Envd, command: Command) -> None:
    """Kill a command's group; bounded, done also when the caller is cancelled, and silent: the sandbox may be gone."""
    command.killed = True
    with anyio.move_on_after(KILL_S, shield=True):
        try:
            async with envd.start(["sh", "-c", _KILL, "sh", str(command.group)], env={}, stdin=False) as killing:
                while not isinstance(await killing.next(), Ended):
                    pass
        except EnvoiTraceError:
            pass


@attrs.define
class _Kept:
    """The beginning of an output; the rest is dropped, so that the command is never held up."""

    max_bytes: int
    data: bytearray = attrs.field(factory=bytearray, init=False)
    truncated: bool = attrs.field(default=False, init=False)

    def take(self, data: bytes) -> None:
        kept = data[: max(0, self.max_bytes - len(self.data))]
        self.data += kept
        self.truncated = self.truncated or len(kept) < len(data)


async def run_command(
    envd: Envd,
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    stdin: bytes,
    input_path: str,
    max_output_bytes: int,
    timeout_s: float,
) -> CommandResult:
    """Run a command to its end; see `Sandbox.run`. Its input is `stdin`, or the file `input_path`, which is removed."""
    kept = {True: _Kept(max_output_bytes), False: _Kept(max_output_bytes)}
    failure: EnvoiTraceError | None = None
    with anyio.move_on_after(timeout_s) as scope:
        async with (
            _open(envd, argv, cwd=cwd, env=env, stdin=bool(stdin), input_path=input_path) as command,
            anyio.create_task_group() as tasks,
        ):
            if stdin:
                tasks.start_soon(_feed, envd, command.process.pid, stdin)
            try:
                async with aclosing(command.outputs()) as outputs:
                    async for data in outputs:
                        kept[data.is_stdout].take(data.data)
            except EnvoiTraceError as error:
                failure = error
            tasks.cancel_scope.cancel()
    stdout, stderr = kept[True], kept[False]
    if scope.cancelled_caught:
        raise SandboxTimeoutError(
            f"The command ran longer than {timeout_s:g} s and was killed.",
            stdout=bytes(stdout.data),
            stderr=bytes(stderr.data),
        )
    if failure is not None:
        raise failure
    assert command.exit_code is not None
    return CommandResult(
        exit_code=command.exit_code,
        stdout=bytes(stdout.data),
        stderr=bytes(stderr.data),
        truncated=stdout.truncated or stderr.truncated,
    )


async def _feed(envd: Envd, pid: int, data: bytes) -> None:
    """Write all, then close; a command that does not want it all is left alone."""
    try:
        await envd.send_input(pid, data)
        await envd.close_input(pid)
    except EnvoiTraceError:
        pass  # whether the sandbox is lost too, the command's output tells


class E2bStream:
    """A live command; see `Stream`."""

    def __init__(self, envd: Envd, command: Command) -> None:
        self._envd = envd
        self._command = command
        self._pieces: MemoryObjectReceiveStream[bytes]
        self._into: MemoryObjectSendStream[bytes]
        self._into, self._pieces = anyio.create_memory_object_stream[bytes](WAITING_PIECES)
        self._unread = b""
        self._tail: deque[bytes] = deque()
        self._failure: EnvoiTraceError | None = None
        self._ended = anyio.Event()
        self._writing = anyio.Lock()
        self._scope = anyio.CancelScope()
        self._stdin_open = True

    async def read(self, max_bytes: int = 65536) -> bytes:
        """The next output; empty at the end."""
        if not self._unread:
            try:
                self._unread = await self._pieces.receive()
            except anyio.EndOfStream:
                if self._failure is not None:
                    raise self._failure from None
                return b""
        piece, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        return piece

    async def write(self, data: bytes) -> None:
        """Feed the command."""
        async with self._writing:
            if not self._stdin_open or self._ended.is_set():
                raise SandboxLostError("The command's input is closed.")
            try:
                await self._envd.send_input(self._command.process.pid, data)
            except SandboxError as error:
                raise SandboxLostError(f"The command has ended, or reads no more: {error.message}") from error

    async def close_stdin(self) -> None:
        """End the command's input."""
        async with self._writing:
            if self._stdin_open and not self._ended.is_set():
                self._stdin_open = False
                try:
                    await self._envd.close_input(self._command.process.pid)
                except SandboxLostError:
                    raise
                except SandboxError:
                    pass  # it has ended

    async def wait(self) -> int:
        """Wait for the end; gives the exit code."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        assert self._command.exit_code is not None
        return self._command.exit_code

    async def kill(self) -> None:
        """Kill the command's process group."""
        if not self._ended.is_set():
            await kill_command(self._envd, self._command)
            with anyio.move_on_after(AFTER_KILL_S):
                await self._ended.wait()
            self._scope.cancel()  # what left the group may hold its outputs open

    @property
    def stderr_tail(self) -> bytes:
        """The last that the command wrote to stderr."""
        return b"".join(self._tail)[-STDERR_TAIL_BYTES:]

    async def pump(self) -> None:
        """Take what the command writes until it has ended; a reader who is slow holds it up."""
        try:
            with self._scope:
                async with self._into, aclosing(self._command.outputs()) as outputs:
                    async for data in outputs:
                        if data.is_stdout:
                            await self._into.send(data.data)
                        else:
                            self._keep(data.data)
        except EnvoiTraceError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - who reads or waits is told
            self._failure = translate(error, "A command's output broke off", sandbox_id=self._envd.id)
        finally:
            if self._command.exit_code is None and self._command.killed:
                self._command.exit_code = KILLED
            self._ended.set()

    def close(self) -> None:
        """Let go of what was not read."""
        self._pieces.close()

    def _keep(self, data: bytes) -> None:
        self._tail.append(data)
        while sum(map(len, self._tail)) - len(self._tail[0]) >= STDERR_TAIL_BYTES:
            self._tail.popleft()


@asynccontextmanager
async def stream_command(
    envd: Envd, argv: Sequence[str], *, cwd: str, env: Mapping[str, str]
) -> AsyncGenerator[E2bStream]:
    """Run a command with live streams; see `Sandbox.stream`."""
    async with _open(envd, argv, cwd=cwd, env=env, stdin=True) as command:
        stream = E2bStream(envd, command)
        # No task group: generators hold streams open across their yields, and a cancel scope must not stay open there.
        pump = asyncio.create_task(stream.pump())
        try:
            yield stream
        finally:
            if command.exit_code is None:
                await kill_command(envd, command)
            pump.cancel()
            with anyio.move_on_after(AFTER_KILL_S, shield=True):
                await asyncio.wait([pump])
            stream.close()
