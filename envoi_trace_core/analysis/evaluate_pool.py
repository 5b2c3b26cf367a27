"""Several evaluation sandboxes at once, each with its own runtime: commits in, results out."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import attrs

from envoi_trace_core.domain.environments import Environment
from envoi_trace_core.domain.parts import Evaluation
from envoi_trace_core.errors import EnvoiTraceError, SandboxLostError
from envoi_trace_core.harness.runtime import EnvoiRuntime
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.specs import SandboxRequest, SandboxSpec

CLOSE_TIMEOUT_S = 60.0
MAX_LOST = 3
"""So many sandboxes may be lost by one worker before it gives up."""
MAX_TRIES = 2
"""Of one commit, when the sandbox was lost under it."""
MARKER = "evaluation"


@asynccontextmanager
async def open_sandbox(spec: SandboxSpec[Any], options: Any, request: SandboxRequest) -> AsyncIterator[Sandbox]:
    """A fresh sandbox, closed at the end: one of that name that a killed program left is ended first."""
    sandbox = await spec.create(request, options)
    try:
        if await _is_marked(sandbox):
            await sandbox.close()
            sandbox = await spec.create(request, options)
        await sandbox.write_file(f"{sandbox.support_dir}/{MARKER}", b"1")
        yield sandbox
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True) as scope:
            await sandbox.close()
        if scope.cancelled_caught:
            request.report(f"the sandbox {sandbox.id} did not close in time; `envoi-trace cleanup` ends it")


async def _is_marked(sandbox: Sandbox) -> bool:
    found = await sandbox.run(["test", "-e", f"{sandbox.support_dir}/{MARKER}"], timeout_s=60, cwd="/")
    return found.exit_code == 0


@attrs.define(kw_only=True)
class TestPool:
    """Evaluates commits in up to `concurrency` sandboxes."""

    __test__ = False  # pytest: not a test class

    environment: Environment
    concurrency: int
    timeout_s: float
    """For the build and all tests of one commit."""
    open: Callable[[int], AbstractAsyncContextManager[Sandbox]]
    """Makes the sandbox of a worker, by its number."""
    export: Callable[[str, Path], Awaitable[None]]
    """Writes a commit's files into an empty folder."""
    on_paths: Callable[[Sequence[str]], None]
    """Told of the environment's test paths, by each worker."""
    on_result: Callable[[Evaluation], Awaitable[None]]
    """Told of each result, one after the other."""
    report: Callable[[str], None]

    _waiting: deque[str] = attrs.field(factory=deque, init=False)
    _tries: dict[str, int] = attrs.field(factory=dict, init=False)
    _failure: EnvoiTraceError | None = attrs.field(default=None, init=False)
    _delivering: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    async def run(self, commits: Sequence[str]) -> None:
        """Evaluate them; every result is delivered before this returns.

        Raises:
            SandboxError: No sandbox could be made, or all were lost again and again.
            HarnessError: The environment's setup or runtime failed in every one.
        """
        self._waiting.extend(commits)
        async with anyio.create_task_group() as group:
            for number in range(min(self.concurrency, len(commits))):
                group.start_soon(self._work, number)
        if self._waiting and self._failure is not None:
            raise self._failure

    async def _work(self, number: int) -> None:
        """One sandbox after another, as long as there is work; usually one."""
        for _ in range(MAX_LOST + 1):
            if not self._waiting:
                return
            try:
                async with (
                    self.open(number) as sandbox,
                    EnvoiRuntime(sandbox=sandbox, environment=self.environment, report=self.report) as runtime,
                ):
                    self.on_paths(runtime.schema.test_paths)
                    while self._waiting:
                        await self._evaluate(runtime, self._waiting.popleft())
            except SandboxLostError as error:
                self._failure = error
                self.report(f"sandbox {number} was lost: {error.message}")
            except EnvoiTraceError as error:
                # Others may have more luck; when none has, this is raised.
                self._failure = error
                self.report(f"sandbox {number} can't be used: {error.message}")
                return

    async def _evaluate(self, runtime: EnvoiRuntime, commit: str) -> None:
        self._tries[commit] = self._tries.get(commit, 0) + 1
        try:
            with TemporaryDirectory(prefix="envoi-trace-evaluate-") as folder:
                tree = Path(folder) / "tree"
                await self.export(commit, tree)
                run = await runtime.test(tree, timeout_s=self.timeout_s)
            evaluation = Evaluation(
                commit=commit,
                status=run.status,
                duration_ms=run.duration_ms,
                counts=run.counts,
                results=run.results,
                error=run.error,
            )
        except SandboxLostError as error:
            if self._tries[commit] < MAX_TRIES:
                self._waiting.appendleft(commit)
            else:
                await self._deliver(Evaluation(commit=commit, status="error", error=error.message))
            raise
        except EnvoiTraceError as error:
            self.report(f"commit {commit[:8]} could not be tested: {error.message}")
            evaluation = Evaluation(commit=commit, status="error", error=error.message)
        await self._deliver(evaluation)

    async def _deliver(self, evaluation: Evaluation) -> None:
        with anyio.CancelScope(shield=True):
            async with self._delivering:
                await self.on_result(evaluation)
