"""The `modal` sandbox as the core sees it."""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime

import anyio
import attrs
import modal  # noqa: TID253

from envoi_trace_core.errors import SandboxError, SandboxLostError
from envoi_trace_core.protocols import CommandResult
from envoi_trace_core.sandboxing.marks import words_file
from envoi_trace_modal.sandbox.calls import call
from envoi_trace_modal.sandbox.failures import is_gone, translate
from envoi_trace_modal.sandbox.running import ModalStream, run_command, stream_command

WORKSPACE = "/workspace"
SUPPORT = "/envoi-trace"
COMMAND_S = 60.0
TRANSFER_S = 1800.0
"""A whole file."""
STREAMED_BYTES = 4 << 20
"""Longer files go as one stream instead of many calls."""
MAX_WORDS_BYTES = 32 * 1024
"""Modal takes 64 KiB of arguments, and the marking shell is some of it; more travels as a file."""

_WRITE = """
path=$1 part=$2 mode=$3
mkdir -p -- "${path%/*}/" && cat >"$part" && chmod -- "$mode" "$part" && mv -fT -- "$part" "$path" && exit 0
rm -f -- "$part"; exit 1
"""
_PLACE = 'chmod -- "$1" "$2" && mv -fT -- "$2" "$3" || { rm -f -- "$2"; exit 1; }'
_READ = """
[ -e "$1" ] || { echo "it is missing" >&2; exit 1; }
[ -f "$1" ] || { echo "it is no file" >&2; exit 1; }
exec cat -- "$1"
"""

# A process that is spawned is the leader of a session of its own, and has its number and its start from /proc: a number
# alone may come to mean another process. Its first output ends the command substitution, so nothing waits for its end.
_SPAWN = """
command -v -- "$1" >/dev/null || { printf '%s is no command in the sandbox' "$1" >&2; exit 1; }
pid=$(setsid -f sh -c 'printf "%s\\n" "$$"; exec "$@" </dev/null >/dev/null 2>&1' sh "$@") || exit 1
stat=$(cat "/proc/$pid/stat" 2>/dev/null) || stat=
set -- ${stat##*) }
printf '%s.%s' "$pid" "${20:-0}"
"""
# The leader may have ended before what it started, and where nobody reaps it stays as a zombie, which does not run.
_IS_ALIVE = """
group=$1 start=$2
if read -r stat 2>/dev/null <"/proc/$group/stat"; then
    set -- ${stat##*) }
    [ "${20}" = "$start" ] || exit 1
fi
for file in /proc/[0-9]*/stat; do
    read -r stat 2>/dev/null <"$file" || continue
    set -- ${stat##*) }
    [ "$3" = "$group" ] && [ "$1" != Z ] && exit 0
done
exit 1
"""
_END = f"""
group=$1 start=$2
alive() {{ set -- "$group" "$start"; ({_IS_ALIVE}) }}
alive || exit 0
kill -s KILL -- "-$group" 2>/dev/null
n=0
while alive && [ $n -lt 100 ]; do sleep 0.05; n=$((n + 1)); done
"""


@attrs.define(kw_only=True)
class ModalSandbox:
    """A sandbox in Modal's cloud; see `Sandbox`."""

    sandbox: modal.Sandbox
    ends_at: datetime | None
    """Modal can't extend a life: the moment is known when it begins."""
    python: str | None
    """The harness's, in an image of `recipe`."""
    workspace: str = WORKSPACE
    support_dir: str = SUPPORT
    _closed: bool = attrs.field(default=False, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    @property
    def id(self) -> str:
        """Modal's."""
        return str(self.sandbox.object_id)

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        max_output_bytes: int = 64 * 1024 * 1024,
    ) -> CommandResult:
        """Run a command to its end. What it left in its background goes on until the sandbox is closed."""
        self._check(argv)
        return await run_command(
            self.sandbox,
            argv,
            cwd=cwd or WORKSPACE,
            env=env or {},
            stdin=stdin,
            words_path=await self._words_path(argv),
            max_output_bytes=max_output_bytes,
            timeout_s=timeout_s,
        )

    def stream(
        self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[ModalStream]:
        """Run a command with live streams."""
        self._check(argv)
        return self._stream(argv, cwd or WORKSPACE, env or {})

    @asynccontextmanager
    async def _stream(self, argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> AsyncGenerator[ModalStream]:
        words_path = await self._words_path(argv)
        async with stream_command(self.sandbox, argv, cwd=cwd, env=env, words_path=words_path) as stream:
            yield stream

    async def spawn(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Start a process that outlives this program, and ends with the sandbox."""
        self._check(argv)
        done = await self.run(["sh", "-c", _SPAWN, "sh", *argv], timeout_s=COMMAND_S, cwd=cwd, env=env)
        if done.exit_code:
            raise SandboxError(f"A process could not be started: {_reason(done) or 'the shell failed'}.")
        return done.stdout.decode(errors="replace")

    async def is_alive(self, handle: str) -> bool:
        """Whether anything of a spawned process's group still runs."""
        return (await self._shell(_IS_ALIVE, *_parts(handle))).exit_code == 0

    async def kill(self, handle: str) -> None:
        """Kill a spawned process's group, and wait until it is gone for a bounded time."""
        await self._shell(_END, *_parts(handle))

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file atomically: it is transferred beside its place, and renamed."""
        self._check_open()
        part = f"{posixpath.dirname(path)}/.envoi-trace-{uuid.uuid4().hex}"
        if len(data) <= STREAMED_BYTES:
            done = await self._shell(_WRITE, path, part, f"{mode:o}", stdin=data)
        else:
            await self._upload(part, data, path)
            done = await self._shell(_PLACE, f"{mode:o}", part, path)
        if done.exit_code:
            raise SandboxError(f"{path} can't be written: {_reason(done)}.")

    async def _upload(self, part: str, data: bytes, path: str) -> None:
        what = f"{path} can't be written"
        with anyio.move_on_after(TRANSFER_S) as scope:
            try:
                await self.sandbox.filesystem.write_bytes.aio(data, part)
            except Exception as error:
                raise translate(error, what, sandbox_id=self.id) from error
        if scope.cancelled_caught:
            raise SandboxError(f"{what} within {TRANSFER_S:g} s.", retryable=True)

    async def read_file(self, path: str, *, max_bytes: int) -> bytes:
        """Read a regular file."""
        self._check_open()
        done = await self._shell(_READ, path, timeout_s=TRANSFER_S, max_output_bytes=max_bytes)
        if done.exit_code:
            raise SandboxError(f"{path} can't be read: {_reason(done)}.")
        if done.truncated:
            raise SandboxError(f"{path} can't be read: it has more than {max_bytes} bytes.")
        return done.stdout

    async def keep_alive(self, lifetime_s: float) -> None:  # noqa: ARG002 - of the protocol
        """Nothing: a life on Modal can't be extended; `ends_at` says when it is over."""
        self._check_open()

    async def close(self) -> None:
        """End the sandbox with everything in it."""
        self._closed = True
        if not self._ended:
            await end_sandbox(self.sandbox)
            self._ended = True

    async def _words_path(self, argv: Sequence[str]) -> str:
        """A file with the command line when that is too long for Modal; else nothing."""
        if sum(len(word.encode(errors="surrogateescape")) + 1 for word in argv) <= MAX_WORDS_BYTES:
            return ""
        path = f"{SUPPORT}/words-{uuid.uuid4().hex}"
        await self.write_file(path, words_file(argv), mode=0o600)
        return path

    async def _shell(
        self,
        script: str,
        *arguments: str,
        stdin: bytes = b"",
        timeout_s: float = COMMAND_S,
        max_output_bytes: int = 1 << 20,
    ) -> CommandResult:
        argv = ["sh", "-c", script, "sh", *arguments]
        return await self.run(argv, timeout_s=timeout_s, cwd="/", stdin=stdin, max_output_bytes=max_output_bytes)

    def _check(self, argv: Sequence[str]) -> None:
        self._check_open()
        if not argv:
            raise SandboxError("There is no command to run.")

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxLostError(f"The Modal sandbox {self.id} was closed.")


async def end_sandbox(sandbox: modal.Sandbox) -> None:
    """End a sandbox. Fine when it has ended.

    Raises:
        SandboxError: Modal can't be reached.
    """

    async def once() -> None:
        try:
            await sandbox.terminate.aio()
        except Exception as error:
            if not is_gone(error):
                raise

    await call(f"The Modal sandbox {sandbox.object_id} could not be ended", once)
    with anyio.move_on_after(5), suppress(Exception):
        await sandbox.detach.aio()  # type: ignore[no-untyped-call]  # the connection to its machine


def _reason(done: CommandResult) -> str:
    return " ".join(done.stderr.decode(errors="replace").split())[-500:]


def _parts(handle: str) -> tuple[str, str]:
    """A handle's process group and the start of its leader."""
    group, _, start = handle.partition(".")
    if not (group.isdecimal() and start.isdecimal()):
        raise SandboxError(f"{handle!r} is no handle of a process in a Modal sandbox.")
    return group, start
