"""The environment's runtime for as long as a run lasts: when its sandbox is lost, it goes on in a new one.

Nothing that must outlive a sandbox is in the evaluation's: so its loss costs the tests in flight, which run again, and
the agent, whose turn goes on meanwhile, never notices.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import attrs

from envoi_trace_core.errors import EnvoiTraceError, HarnessError, SandboxError, SandboxLostError
from envoi_trace_core.harness.results import TestRun
from envoi_trace_core.harness.runtime import EnvironmentSchema, EnvoiRuntime
from envoi_trace_core.protocols import Sandbox

MAX_TRIES = 3
"""Of one test: what loses its sandbox each time is the tests' own doing."""
PROBE_TIMEOUT_S = 60.0


@attrs.define(kw_only=True)
class LastingRuntime:
    """Enter it to make the first sandbox and its runtime; leave it to end the last ones. See `Runtime`."""

    open: Callable[[], AbstractAsyncContextManager[EnvoiRuntime]]
    """Makes a sandbox with a runtime in it, and ends both."""
    is_taken_over: Callable[[], Awaitable[bool]]
    """Whether another run works on the trajectory now: its sandbox has the same name, and must not be touched."""
    report: Callable[[str], None]

    _stack: AsyncExitStack = attrs.field(factory=AsyncExitStack, init=False)
    _runtime: EnvoiRuntime | None = attrs.field(default=None, init=False)
    _generation: int = attrs.field(default=0, init=False)
    _renewing: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    async def __aenter__(self) -> Self:
        self._runtime = await self._stack.enter_async_context(self.open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def sandbox(self) -> Sandbox:
        """The one that it runs in now."""
        return self._now.sandbox

    @property
    def schema(self) -> EnvironmentSchema:
        """What the environment tests."""
        return self._now.schema

    async def test(self, tree: Path, paths: Sequence[str] | None = None, *, timeout_s: float) -> TestRun:
        """See `EnvoiRuntime.test`; a sandbox that is lost under it is replaced, and the test begins again.

        Raises:
            HarnessError: The environment failed.
            SandboxError: Sandboxes were lost again and again, or no new one could be made.
        """
        for left in reversed(range(MAX_TRIES)):
            generation, runtime = self._generation, self._now
            try:
                return await runtime.test(tree, paths, timeout_s=timeout_s)
            except (SandboxError, HarnessError) as error:
                if not left or not await _is_lost(runtime.sandbox, error) or await self.is_taken_over():
                    raise
                await self._renew(generation, error)
        raise AssertionError("the last try returns or raises")

    @property
    def _now(self) -> EnvoiRuntime:
        assert self._runtime is not None, "the runtime was not entered"
        return self._runtime

    async def _renew(self, generation: int, error: EnvoiTraceError) -> None:
        """Make a new sandbox, unless another test that saw the same loss did so already."""
        async with self._renewing:
            if generation != self._generation:
                return
            self.report(f"the evaluation sandbox was lost, a new one is made: {error.message}")
            try:
                await self._stack.aclose()
            except EnvoiTraceError as left:
                self.report(f"what is left of it could not be ended: {left.message}")
            self._runtime = await self._stack.enter_async_context(self.open())
            self._generation += 1


async def _is_lost(sandbox: Sandbox, error: EnvoiTraceError) -> bool:
    """A sandbox that dies under a test may look like a runner or a runtime that failed."""
    if isinstance(error, SandboxLostError):
        return True
    try:
        await sandbox.run(["true"], timeout_s=PROBE_TIMEOUT_S, cwd="/")
    except SandboxLostError:
        return True
    except SandboxError:
        pass
    return False
