"""Background evaluation of commits: the newest first, each distinct tree once, all of them in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import attrs

from envoi_trace_core.background import background_tasks
from envoi_trace_core.domain.parts import Evaluation
from envoi_trace_core.errors import EnvoiTraceError
from envoi_trace_core.harness.gate import TestGate
from envoi_trace_core.harness.runtime import Runtime

KEPT = ("completed", "build_failed")
"""What an equal tree need not be tested for again."""


@attrs.define(kw_only=True)
class Evaluator:
    """Made by `open_evaluator`."""

    runtime: Runtime
    gate: TestGate
    export: Callable[[str, Path], Awaitable[None]]
    """Writes a commit's files into an empty folder."""
    tree_of: Callable[[str], Awaitable[str]]
    """The hash of a commit's tree."""
    on_evaluation: Callable[[Evaluation], Awaitable[None]]
    """Told of each result, one after the other."""
    on_failure: Callable[[EnvoiTraceError], None]
    """Told when the harness or the sandbox failed; the evaluation says `error` too."""
    timeout_s: float

    _waiting: list[str] = attrs.field(factory=list, init=False)
    """Commits, oldest first."""
    _running: dict[str, list[str]] = attrs.field(factory=dict, init=False)
    """Tree to the commits that wait for its result."""
    _by_tree: dict[str, Evaluation] = attrs.field(factory=dict, init=False)
    _by_commit: dict[str, Evaluation] = attrs.field(factory=dict, init=False)
    _seen: set[str] = attrs.field(factory=set, init=False)
    _open: int = attrs.field(default=0, init=False)
    """Commits whose result was not delivered yet."""
    _closed: bool = attrs.field(default=False, init=False)
    _changed: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _delivering: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)
    _workers: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    _workers_ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def submit(self, commit: str) -> None:
        """Have a commit evaluated. Fine when it was or will be."""
        if not self._closed and commit not in self._seen:
            self._seen.add(commit)
            self._open += 1
            self._waiting.append(commit)
            self._notify()

    @property
    def pending(self) -> int:
        """How many results are still to come."""
        return self._open

    async def wait_for(self, commit: str) -> Evaluation | None:
        """The evaluation of a commit, which is submitted if it was not; None once the evaluator was drained."""
        self.submit(commit)
        while commit not in self._by_commit:
            if self._closed:
                return None
            await self._changed.wait()
        return self._by_commit[commit]

    async def drain(self, grace_s: float) -> None:
        """Finish what waits, within that time; the rest is delivered as `skipped`. Nothing is taken after it."""
        with anyio.move_on_after(grace_s):
            while self._open:
                await self._changed.wait()
        self._workers.cancel()
        await self._workers_ended.wait()
        left = [*self._waiting, *(commit for commits in self._running.values() for commit in commits)]
        self._waiting.clear()
        self._running.clear()
        for commit in left:
            reason = f"not evaluated within {grace_s:.0f} s after the run's end"
            await self._deliver(Evaluation(commit=commit, status="skipped", error=reason))
        self._closed = True
        self._notify()

    # -- at work ----------------------------------------------------------------------------------

    async def work(self) -> None:
        """Evaluate until drained or cancelled."""
        try:
            with self._workers:
                async with anyio.create_task_group() as group:
                    for _ in range(self.gate.limit):
                        group.start_soon(self._work)
        finally:
            self._workers_ended.set()

    async def learn(self, known: Iterable[Evaluation]) -> None:
        """Take results of an earlier orchestrator, so that neither they nor equal trees are evaluated again."""
        for evaluation in known:
            if evaluation.status in KEPT:
                self._seen.add(evaluation.commit)
                self._by_commit[evaluation.commit] = evaluation
                self._by_tree[await self._tree(evaluation.commit)] = evaluation

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                await self._changed.wait()
            # The slot first, then the commit: the newest one by then.
            async with self.gate.slot(first=False):
                if self._waiting:
                    try:
                        await self._take(self._waiting[-1])
                    except EnvoiTraceError as error:
                        self.on_failure(error)

    async def _take(self, commit: str) -> None:
        tree = await self._tree(commit)
        if commit not in self._waiting:
            return  # another worker took it meanwhile
        self._waiting.remove(commit)
        if tree in self._running:
            self._running[tree].append(commit)
            return
        self._running[tree] = [commit]
        evaluation = self._by_tree.get(tree) or await self._evaluate(commit)
        if evaluation.status in KEPT:
            self._by_tree[tree] = evaluation
        with anyio.CancelScope(shield=True):  # a result that is there is delivered, to all its commits
            commits = self._running.pop(tree)
            for equal in commits:
                same = equal == evaluation.commit
                await self._deliver(evaluation if same else attrs.evolve(evaluation, commit=equal, duration_ms=0))

    async def _tree(self, commit: str) -> str:
        try:
            return await self.tree_of(commit)
        except EnvoiTraceError:
            return f"commit {commit}"  # its export will say what is wrong

    async def _evaluate(self, commit: str) -> Evaluation:
        try:
            with TemporaryDirectory(prefix="envoi-trace-") as directory:
                await self.export(commit, Path(directory))
                run = await self.runtime.test(Path(directory), timeout_s=self.timeout_s)
        except EnvoiTraceError as error:
            self.on_failure(error)
            return Evaluation(commit=commit, status="error", error=error.message)
        return Evaluation(
            commit=commit,
            status=run.status,
            duration_ms=run.duration_ms,
            counts=run.counts,
            results=run.results,
            error=run.error,
        )

    async def _deliver(self, evaluation: Evaluation) -> None:
        try:
            async with self._delivering:
                await self.on_evaluation(evaluation)
        finally:
            self._by_commit[evaluation.commit] = evaluation
            self._open -= 1
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def open_evaluator(
    *,
    runtime: Runtime,
    gate: TestGate,
    export: Callable[[str, Path], Awaitable[None]],
    tree_of: Callable[[str], Awaitable[str]],
    on_evaluation: Callable[[Evaluation], Awaitable[None]],
    on_failure: Callable[[EnvoiTraceError], None] = lambda _error: None,
    known: Iterable[Evaluation] = (),
    timeout_s: float = 3600.0,
) -> AsyncIterator[Evaluator]:
    """An evaluator at work; leaving the context stops it as it is, `drain` before that finishes it."""
    evaluator = Evaluator(
        runtime=runtime,
        gate=gate,
        export=export,
        tree_of=tree_of,
        on_evaluation=on_evaluation,
        on_failure=on_failure,
        timeout_s=timeout_s,
    )
    await evaluator.learn(known)
    async with background_tasks() as group:
        group.start_soon(evaluator.work)
        yield evaluator
