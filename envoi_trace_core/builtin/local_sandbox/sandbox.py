"""The `local` sandbox as the core sees it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

import anyio
import attrs

from envoi_trace_core.builtin.local_sandbox.commands import LocalStream, run_command, stream_command
from envoi_trace_core.builtin.local_sandbox.control import call
from envoi_trace_core.builtin.local_sandbox.ending import end_sandbox
from envoi_trace_core.builtin.local_sandbox.folders import Record, SandboxFolder
from envoi_trace_core.builtin.local_sandbox.isolation import SUPPORT_INSIDE, WORKSPACE_INSIDE
from envoi_trace_core.errors import SandboxError, SandboxLostError, SandboxTimeoutError
from envoi_trace_core.protocols import CommandResult

FILE_TIMEOUT_S = 300.0
KILL_S = 5.0


@attrs.define
class LocalSandbox:
    """A sandbox on this machine: a folder, and the init process that holds its commands; see `Sandbox`."""

    folder: SandboxFolder
    record: Record
    _closed: bool = attrs.field(default=False, init=False)

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.folder.id

    @property
    def workspace(self) -> str:
        """Where the agent works."""
        return WORKSPACE_INSIDE if self.record.isolated else str(self.folder.workspace)

    @property
    def support_dir(self) -> str:
        """Where the core and agents keep things."""
        return SUPPORT_INSIDE if self.record.isolated else str(self.folder.support)

    @property
    def python(self) -> str | None:
        """The orchestrator's own Python: it is shown inside at the same path."""
        return sys.executable or None

    @property
    def ends_at(self) -> datetime | None:
        """By the option `max_lifetime_s`."""
        return self.record.ends_at

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
        message = self._message("run", argv, cwd, env)
        return await run_command(
            self.folder, message, stdin=stdin, max_output_bytes=max_output_bytes, timeout_s=timeout_s
        )

    def stream(
        self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[LocalStream]:
        """Run a command with live streams."""
        return stream_command(self.folder, self._message("stream", argv, cwd, env))

    async def spawn(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Start a process that outlives this program; it ends with the sandbox."""
        answer = await call(self.folder, self._message("spawn", argv, cwd, env))
        return str(answer["handle"])

    async def is_alive(self, handle: str) -> bool:
        """Whether anything of a spawned process's group still runs."""
        self._check_open()
        answer = await call(self.folder, {"op": "is_alive", "handle": handle})
        return bool(answer["alive"])

    async def kill(self, handle: str) -> None:
        """Kill a spawned process's group, and wait until it is gone for a bounded time."""
        self._check_open()
        await call(self.folder, {"op": "kill_spawned", "handle": handle})
        with anyio.move_on_after(KILL_S):
            pause_s = 0.002
            while await self.is_alive(handle):
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.1)

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file atomically. A process inside does it, so no link made there leads it to the host's files."""
        await self._file_work(path, {"op": "write", "size_bytes": len(data), "mode": mode}, data, 0)

    async def read_file(self, path: str, *, max_bytes: int) -> bytes:
        """Read a regular file."""
        result = await self._file_work(path, {"op": "read", "max_bytes": max_bytes}, b"", max_bytes)
        if result.truncated:
            raise SandboxError(f"{path} can't be read: it has more than {max_bytes} bytes.")
        return result.stdout

    async def keep_alive(self, lifetime_s: float) -> None:
        """Set the sandbox's end to that long from now, within its bound."""
        self._check_open()
        if self.ends_at is not None:
            lifetime_s = min(lifetime_s, (self.ends_at - datetime.now(UTC)).total_seconds())
        await call(self.folder, {"op": "keep_alive", "lifetime_s": lifetime_s})

    async def close(self) -> None:
        """End every process, and remove the folder; bounded, and done also when the caller is cancelled."""
        self._closed = True
        await end_sandbox(self.folder, self.record)

    async def _file_work(self, path: str, message: dict[str, Any], data: bytes, max_bytes: int) -> CommandResult:
        self._check_open()
        request = {**message, "path": path, "cwd": self.workspace}
        try:
            result = await run_command(
                self.folder,
                request,
                stdin=data,
                max_output_bytes=max(max_bytes, 4096),
                timeout_s=FILE_TIMEOUT_S,
            )
        except SandboxTimeoutError as error:
            raise SandboxError(f"{path} could not be read or written within {FILE_TIMEOUT_S:g} s.") from error
        if result.exit_code:
            reason = result.stderr.decode(errors="replace").strip()
            verb = "written" if message["op"] == "write" else "read"
            raise SandboxError(f"{path} can't be {verb}: {reason or 'its process was killed'}.")
        if message["op"] == "read" and len(result.stdout) > max_bytes:
            raise SandboxError(f"{path} can't be read: it has more than {max_bytes} bytes.")
        return result

    def _message(self, op: str, argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> dict[str, Any]:
        self._check_open()
        if not argv:
            raise SandboxError("There is no command to run.")
        return {"op": op, "argv": list(argv), "cwd": cwd or self.workspace, "env": dict(env or {})}

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxLostError(f"The local sandbox {self.id} was closed.")
