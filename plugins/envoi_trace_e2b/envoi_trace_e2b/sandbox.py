"""The `e2b` sandbox as the core sees it."""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

import attrs
from e2b import AsyncSandbox  # noqa: TID253

from envoi_trace_core.errors import SandboxError, SandboxLostError
from envoi_trace_core.protocols import CommandResult
from envoi_trace_e2b.calls import api_params, call, whole_seconds
from envoi_trace_e2b.commands import E2bStream, run_command, stream_command
from envoi_trace_e2b.envd import Envd
from envoi_trace_e2b.files import download, upload

WORKSPACE = "/workspace"
SUPPORT = "/envoi-trace"
COMMAND_S = 60.0
INLINE_INPUT_BYTES = 1 << 18
"""Longer input travels as a file: one transfer instead of many calls."""

_PLACE = 'chmod -- "$1" "$2" && mv -fT -- "$2" "$3" || { rm -f -- "$2"; exit 1; }'

# A process that is spawned is the leader of a session of its own, and has its number and its start from /proc: a number
# alone may come to mean another process. Its first output ends the command substitution, so nothing waits for its end.
_SPAWN = """
command -v -- "$1" >/dev/null || { printf '%s is no command in the sandbox' "$1" >&2; exit 1; }
pid=$(setsid -f sh -c 'printf "%s\\n" "$$"; exec "$@" </dev/null >/dev/null 2>&1' sh "$@") || exit 1
stat=$(cat "/proc/$pid/stat" 2>/dev/null) || stat=
set -- ${stat##*) }
printf '%s.%s' "$pid" "${20:-0}"
"""
_IS_ALIVE = """
kill -s 0 -- "-$1" 2>/dev/null || exit 1
[ -e "/proc/$1/stat" ] || exit 0
start=$2
stat=$(cat "/proc/$1/stat" 2>/dev/null) || exit 0
set -- ${stat##*) }
[ "${20}" = "$start" ]
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
class E2bSandbox:
    """A sandbox in E2B's cloud; see `Sandbox`."""

    sandbox: AsyncSandbox
    ends_at: datetime | None
    """When the longest life of its plan is over."""
    python: str | None
    """The harness's, in a template that this plugin built."""
    workspace: str = WORKSPACE
    support_dir: str = SUPPORT
    _envd: Envd = attrs.field(init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._envd = Envd(self.sandbox)

    @property
    def id(self) -> str:
        """E2B's."""
        return self.sandbox.sandbox_id

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
        input_path = ""
        if len(stdin) > INLINE_INPUT_BYTES:
            input_path = f"{SUPPORT}/input-{uuid.uuid4().hex}"
            await upload(self.sandbox, input_path, stdin)
        return await run_command(
            self._envd,
            argv,
            cwd=cwd or WORKSPACE,
            env=env or {},
            stdin=b"" if input_path else stdin,
            input_path=input_path,
            max_output_bytes=max_output_bytes,
            timeout_s=timeout_s,
        )

    def stream(
        self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[E2bStream]:
        """Run a command with live streams."""
        self._check(argv)
        return stream_command(self._envd, argv, cwd=cwd or WORKSPACE, env=env or {})

    async def spawn(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Start a process that outlives this program; it is frozen when the sandbox pauses, and ends with it."""
        self._check(argv)
        done = await self.run(["sh", "-c", _SPAWN, "sh", *argv], timeout_s=COMMAND_S, cwd=cwd, env=env)
        if done.exit_code:
            reason = done.stderr.decode(errors="replace").strip()
            raise SandboxError(f"A process could not be started: {reason or 'the shell failed'}.")
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
        await upload(self.sandbox, part, data)
        done = await self._shell(_PLACE, f"{mode:o}", part, path)
        if done.exit_code:
            reason = done.stderr.decode(errors="replace").strip()
            raise SandboxError(f"{path} can't be written: {reason}.")

    async def read_file(self, path: str, *, max_bytes: int) -> bytes:
        """Read a regular file."""
        self._check_open()
        return await download(self.sandbox, path, max_bytes=max_bytes)

    async def keep_alive(self, lifetime_s: float) -> None:
        """Set the sandbox's end to that long from now, within the plan's bound."""
        self._check_open()
        if self.ends_at is not None:
            lifetime_s = min(lifetime_s, (self.ends_at - datetime.now(UTC)).total_seconds())

        async def once() -> None:
            await AsyncSandbox.set_timeout(self.id, whole_seconds(lifetime_s), **api_params())

        await call(f"The life of {self.id} can't be extended", once, sandbox_id=self.id)

    async def close(self) -> None:
        """End the sandbox with everything in it."""
        self._closed = True
        await end_sandbox(self.id)

    async def _shell(self, script: str, *arguments: str) -> CommandResult:
        return await self.run(["sh", "-c", script, "sh", *arguments], timeout_s=COMMAND_S, cwd="/")

    def _check(self, argv: Sequence[str]) -> None:
        self._check_open()
        if not argv:
            raise SandboxError("There is no command to run.")

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxLostError(f"The E2B sandbox {self.id} was closed.")


async def end_sandbox(sandbox_id: str) -> None:
    """End a sandbox, running or paused. Fine when it is gone."""

    async def once() -> None:
        await AsyncSandbox.kill(sandbox_id, **api_params())

    await call(f"The E2B sandbox {sandbox_id} could not be ended", once)


def _parts(handle: str) -> tuple[str, str]:
    """A handle's process group and the start of its leader."""
    group, _, start = handle.partition(".")
    if not (group.isdecimal() and start.isdecimal()):
        raise SandboxError(f"{handle!r} is no handle of a process in an E2B sandbox.")
    return group, start
