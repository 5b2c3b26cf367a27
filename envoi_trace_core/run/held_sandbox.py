"""A sandbox for as long as this run holds the trajectory.

A run that was stopped for longer than its lease wakes up in sandboxes that another run has taken over: it must not
write there, nor end them. So every call looks first, and finds the sandbox lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

import attrs

from envoi_trace_core.errors import SandboxLostError
from envoi_trace_core.protocols import CommandResult, Sandbox, Stream


@attrs.frozen
class HeldSandbox:
    """See `Sandbox`; `inner` is the real one."""

    inner: Sandbox
    is_taken_over: Callable[[], Awaitable[bool]]

    @property
    def id(self) -> str:
        """The real one's, like all that follows."""
        return self.inner.id

    @property
    def workspace(self) -> str:
        """Where the agent works."""
        return self.inner.workspace

    @property
    def support_dir(self) -> str:
        """Where the core and agents keep things."""
        return self.inner.support_dir

    @property
    def python(self) -> str | None:
        """A Python with the harness's packages."""
        return self.inner.python

    @property
    def ends_at(self) -> datetime | None:
        """When it ends whatever anyone does."""
        return self.inner.ends_at

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
        """Run a command to its end."""
        await self._look()
        return await self.inner.run(
            argv, timeout_s=timeout_s, stdin=stdin, cwd=cwd, env=env, max_output_bytes=max_output_bytes
        )

    def stream(
        self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """Run a command with live streams."""
        return self._stream(argv, cwd, env)

    @asynccontextmanager
    async def _stream(
        self, argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None
    ) -> AsyncIterator[Stream]:
        await self._look()
        async with self.inner.stream(argv, cwd=cwd, env=env) as stream:
            yield stream

    async def spawn(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Start a process that outlives this program."""
        await self._look()
        return await self.inner.spawn(argv, cwd=cwd, env=env)

    async def is_alive(self, handle: str) -> bool:
        """Whether a spawned process still runs."""
        await self._look()
        return await self.inner.is_alive(handle)

    async def kill(self, handle: str) -> None:
        """Kill a spawned process."""
        await self._look()
        await self.inner.kill(handle)

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file."""
        await self._look()
        await self.inner.write_file(path, data, mode=mode)

    async def read_file(self, path: str, *, max_bytes: int) -> bytes:
        """Read a file."""
        await self._look()
        return await self.inner.read_file(path, max_bytes=max_bytes)

    async def keep_alive(self, lifetime_s: float) -> None:
        """Ask for a longer life."""
        await self._look()
        await self.inner.keep_alive(lifetime_s)

    async def close(self) -> None:
        """End it, unless another run works in it."""
        if not await self.is_taken_over():
            await self.inner.close()

    async def _look(self) -> None:
        if await self.is_taken_over():
            raise SandboxLostError(f"another run of this trajectory works in sandbox {self.inner.id} now")
