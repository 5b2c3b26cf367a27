"""A process in a sandbox that outlives us, fed and read through files.

Streams over a network break, and a cloud kills or forgets a process whose client went away. So a long-lived
process never hangs on a stream: its input is followed from the file `in`, its output goes to `out` and `err`, its
exit code to `rc` (written aside and renamed, so it is whole or absent). Any program that can reach the sandbox can
read on from an offset. Needs nothing inside but a POSIX shell and tail, cat, head, mkfifo, mv, kill.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import anyio
import attrs

from envoi_trace_core.errors import SandboxError, SandboxLostError, SandboxTimeoutError
from envoi_trace_core.protocols import CommandResult, Sandbox
from envoi_trace_core.sandboxing.lines import Line, LineSplitter

__all__ = ["DetachedProcess", "Line"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
COMMAND_TIMEOUT_S = 60.0
READ_BYTES = 4 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_PAUSE_S = 2.0
TIMEOUTS_IN_A_ROW = 3

# A folder without `pid` and `handle` is what a program left that died before it spawned.
_PREPARE = """
[ -e "$1/pid" ] || [ -e "$1/handle" ] && exit 3
rm -rf "$1" && umask 077 && mkdir -p "$1" && : >"$1/in" && : >"$1/out" && : >"$1/err" && mkfifo "$1/feed" "$1/running"
"""

# The wrapper holds the fifo `running` open, so whoever reads that sees the end of the wrapper at once, however it
# ends. `tail` feeds through another fifo: in a pipeline it would live on until the next input comes.
_WRAP = """
dir=$1 fed=$2; shift 2
exec 9<>"$dir/running"
echo $$ >"$dir/pid.tmp" && mv "$dir/pid.tmp" "$dir/pid"
if [ "$fed" = 1 ]; then
    tail -c +1 -f "$dir/in" >"$dir/feed" 2>/dev/null 9>&- &
    feeder=$!
    "$@" <"$dir/feed" >>"$dir/out" 2>>"$dir/err" 9>&-
    code=$?
    kill "$feeder" 2>/dev/null
else
    "$@" </dev/null >>"$dir/out" 2>>"$dir/err" 9>&-
    code=$?
fi
echo "$code" >"$dir/rc.tmp" && mv "$dir/rc.tmp" "$dir/rc"
"""

# Opening a fifo to read blocks while nobody writes; holding it both ways for a moment avoids that, with no race.
_FOLLOW = """
exec 8<>"$1/running" 7<"$1/running" 8>&-
tail -c "+$2" -f "$1/out" 7<&- &
cat <&7 >/dev/null
kill $!
"""

_STARTED = '[ -e "$1/pid" ] || [ -e "$1/handle" ] || exit 3; [ ! -e "$1/handle" ] || head -c 200 "$1/handle"'
_EXIT_CODE = '[ -e "$1/rc" ] || exit 3; head -c 20 "$1/rc"'
_READ = 'tail -c "+$2" "$1/out" | head -c "$3"'
_STDERR = 'tail -c "$2" "$1/err"'
_WRITE = 'cat >>"$1/in"'
_LAST_INPUT = 'grep "^$2" "$1/in" | tail -n 1'
_GROUP_ALIVE = 'pid=$(head -c 20 "$1/pid") && kill -s 0 -- "-$pid" 2>/dev/null'
_GROUP_KILL = 'pid=$(head -c 20 "$1/pid") && kill -s KILL -- "-$pid" 2>/dev/null'


@attrs.define
class DetachedProcess:
    """A process that goes on without us; made by `start`, found again by `attach`."""

    sandbox: Sandbox
    name: str
    directory: str
    handle: str | None
    """None when its starter died before it could note it: the process group is then known by its number only."""
    max_line_bytes: int = MAX_LINE_BYTES
    _writing: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    @classmethod
    async def start(
        cls,
        sandbox: Sandbox,
        *,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
    ) -> DetachedProcess:
        """Start a process under a name that no other has had in this sandbox.

        Args:
            sandbox: Where it runs.
            name: Letters, digits, `_`, `.` and `-`.
            argv: The command; visible to all in the sandbox, so secrets belong into `env`.
            env: Added to the sandbox's own environment.
            cwd: The workspace unless said otherwise.
            stdin: Whether it is fed by `write`; its input then never ends. Else its input is empty.

        Raises:
            SandboxError: A process of that name was started already.
            SandboxLostError: The sandbox is gone.
        """
        directory = _directory(sandbox, name)
        done = await _shell(sandbox, _PREPARE, directory)
        if done.exit_code:
            reason = "it was started already" if done.exit_code == 3 else done.stderr.decode(errors="replace").strip()
            raise SandboxError(f"The process {name} can't be started: {reason}.")
        wrapper = ["sh", "-c", _WRAP, f"envoi-trace-{name}", directory, "1" if stdin else "0", *argv]
        handle = await sandbox.spawn(wrapper, cwd=cwd, env=env)
        await sandbox.write_file(f"{directory}/handle", handle.encode())
        return cls(sandbox, name, directory, handle)

    @classmethod
    async def attach(cls, sandbox: Sandbox, name: str) -> DetachedProcess | None:
        """Find a process that any program started, running or ended; None when it was never started."""
        directory = _directory(sandbox, name)
        found = await _shell(sandbox, _STARTED, directory)
        if found.exit_code:
            return None
        return cls(sandbox, name, directory, found.stdout.decode(errors="replace") or None)

    async def write(self, data: bytes) -> None:
        """Append to the process's input. It is read in order, at the process's own pace."""
        async with self._writing:
            done = await _shell(self.sandbox, _WRITE, self.directory, stdin=data)
        if done.exit_code:
            reason = done.stderr.decode(errors="replace").strip()
            raise SandboxError(f"The process {self.name} can't be written to: {reason}.")

    async def last_input(self, beginning: str) -> bytes:
        """The last line of its input that begins so, whether it was read or not; empty when there is none.

        Args:
            beginning: Matched by grep, as a basic regular expression.
        """
        return (await _shell(self.sandbox, _LAST_INPUT, self.directory, beginning)).stdout

    async def lines(self, offset: int = 0) -> AsyncGenerator[Line]:
        """Every line of its output from a byte offset on, until it has ended and all is read.

        Broken streams are opened again where the last one ended; a last line without a newline is given when the
        process has ended. Lines above `max_line_bytes` come cut. A caller that stops early enters it through
        `contextlib.aclosing`, so that the stream ends then and there.

        Raises:
            SandboxLostError: The sandbox is gone.
        """
        splitter = LineSplitter(offset, self.max_line_bytes)
        pause_s, timeouts = 0.02, 0
        while True:
            before = splitter.read_to
            async with aclosing(self._follow(splitter)) as followed:
                async for line in followed:
                    yield line
            try:
                # Asked before the rest is read: what the process wrote, it wrote before it ended.
                ended = await self.exit_code() is not None or not await self.is_alive()
                while chunk := await self._read(splitter.read_to):
                    for line in splitter.feed(chunk):
                        yield line
                timeouts = 0
            except SandboxTimeoutError:
                ended, timeouts = False, timeouts + 1
                if timeouts == TIMEOUTS_IN_A_ROW:
                    raise
            if ended:
                break
            pause_s = 0.02 if splitter.read_to > before else min(2 * pause_s, MAX_PAUSE_S)
            await anyio.sleep(pause_s)
        if (rest := splitter.finish()) is not None:
            yield rest

    async def exit_code(self) -> int | None:
        """Its exit code; None while it runs, and when it was killed with its whole group."""
        done = await _shell(self.sandbox, _EXIT_CODE, self.directory)
        if done.exit_code:
            return None
        try:
            return int(done.stdout)
        except ValueError:
            return 255  # something in the sandbox wrote over it

    async def is_alive(self) -> bool:
        """Whether it, or anything of its process group, still runs."""
        if self.handle is not None:
            return await self.sandbox.is_alive(self.handle)
        return (await _shell(self.sandbox, _GROUP_ALIVE, self.directory)).exit_code == 0

    async def kill(self) -> None:
        """Kill it with its whole process group. Fine when it has ended."""
        if self.handle is not None:
            await self.sandbox.kill(self.handle)
        else:
            await _shell(self.sandbox, _GROUP_KILL, self.directory)

    async def stderr_tail(self, max_bytes: int = 65536) -> bytes:
        """The last that it wrote to its stderr."""
        return (await _shell(self.sandbox, _STDERR, self.directory, str(max_bytes))).stdout

    async def _follow(self, splitter: LineSplitter) -> AsyncGenerator[Line]:
        """Lines as they are written, until the process ends or the stream breaks."""
        argv = ["sh", "-c", _FOLLOW, "follow", self.directory, str(splitter.read_to + 1)]
        try:
            async with self.sandbox.stream(argv) as stream:
                while chunk := await stream.read():
                    for line in splitter.feed(chunk):
                        yield line
        except SandboxLostError:
            return  # whether the sandbox is lost too, the next command tells

    async def _read(self, offset: int) -> bytes:
        argv = (self.directory, str(offset + 1), str(READ_BYTES))
        return (await _shell(self.sandbox, _READ, *argv)).stdout


def _directory(sandbox: Sandbox, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SandboxError(f"{name!r} can't name a process.")
    return f"{sandbox.support_dir}/processes/{name}"


async def _shell(sandbox: Sandbox, script: str, *arguments: str, stdin: bytes = b"") -> CommandResult:
    argv = ["sh", "-c", script, "envoi-trace", *arguments]
    return await sandbox.run(argv, stdin=stdin, timeout_s=COMMAND_TIMEOUT_S, max_output_bytes=READ_BYTES)
