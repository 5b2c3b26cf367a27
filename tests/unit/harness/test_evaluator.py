"""The order, the end and the failures of background evaluation; the tests themselves are held by events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from envoi_trace_core.domain.parts import Evaluation, PathResult, TestCounts
from envoi_trace_core.errors import EnvoiTraceError, HarnessError
from envoi_trace_core.harness.evaluator import open_evaluator
from envoi_trace_core.harness.gate import TestGate
from envoi_trace_core.harness.results import TestRun

pytestmark = pytest.mark.anyio

PASSED = (PathResult(path="a", counts=TestCounts(passed=1, total=1)),)


class Held:
    """Stands where the runtime does: each run waits until it is let go, so that a test decides the order."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.let_go = anyio.Event()
        self.evaluations: list[Evaluation] = []
        self.failures: list[EnvoiTraceError] = []
        self.failing: set[str] = set()

    async def test(self, tree: Path, paths: Any = None, *, timeout_s: float) -> TestRun:
        commit = (tree / "commit").read_text()
        self.started.append(commit)
        await self.let_go.wait()
        if commit in self.failing:
            raise HarnessError("the runtime died")
        return TestRun(status="completed", results=PASSED, duration_ms=7)

    async def export(self, commit: str, path: Path) -> None:
        (path / "commit").write_text(commit)

    async def tree_of(self, commit: str) -> str:
        return commit.rstrip("'")  # c1 and c1' are equal

    async def on_evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def open(self, limit: int = 1, known: tuple[Evaluation, ...] = ()) -> Any:
        runtime: Any = self
        return open_evaluator(
            runtime=runtime,
            gate=TestGate(limit),
            export=self.export,
            tree_of=self.tree_of,
            on_evaluation=self.on_evaluation,
            on_failure=self.failures.append,
            known=known,
        )

    @property
    def statuses(self) -> dict[str, str]:
        return {evaluation.commit: evaluation.status for evaluation in self.evaluations}


async def test_newest_first_all_in_the_end() -> None:
    held = Held()
    async with held.open() as evaluator:
        evaluator.submit("c1")
        await anyio.wait_all_tasks_blocked()
        for commit in ("c2", "c3", "c2"):
            evaluator.submit(commit)
        held.let_go.set()
        await evaluator.drain(10)
    assert held.started == ["c1", "c3", "c2"]
    assert len(held.evaluations) == 3


async def test_equal_trees_run_once_also_while_the_first_runs() -> None:
    held = Held()
    async with held.open(limit=2) as evaluator:
        for commit in ("c1", "c1'"):
            evaluator.submit(commit)
        await anyio.wait_all_tasks_blocked()
        assert len(held.started) == 1
        held.let_go.set()
        await evaluator.drain(10)
        evaluator.submit("c1''")
    assert held.statuses == {"c1": "completed", "c1'": "completed"}
    assert sorted(evaluation.duration_ms for evaluation in held.evaluations) == [0, 7]


async def test_concurrency_is_bounded() -> None:
    held = Held()
    async with held.open(limit=2) as evaluator:
        for number in range(5):
            evaluator.submit(f"c{number}")
        await anyio.wait_all_tasks_blocked()
        assert len(held.started) == 2
        held.let_go.set()
        await evaluator.drain(10)
    assert len(held.started) == 5


async def test_drain_skips_what_is_not_done_in_time() -> None:
    held = Held()
    async with held.open() as evaluator:
        for commit in ("c1", "c2", "c3"):
            evaluator.submit(commit)
        await anyio.wait_all_tasks_blocked()
        await evaluator.drain(0.05)
        assert await evaluator.wait_for("c9") is None
    assert held.statuses == dict.fromkeys(("c1", "c2", "c3"), "skipped")
    assert len(held.started) == 1


async def test_a_waiter_is_told_when_the_rest_is_skipped() -> None:
    held = Held()
    results: list[Evaluation | None] = []
    async with held.open() as evaluator, anyio.create_task_group() as group:

        async def wait() -> None:
            results.append(await evaluator.wait_for("c1"))

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await evaluator.drain(0.05)
    assert [result and result.status for result in results] == ["skipped"]


async def test_known_results_are_not_run_again_nor_told_again() -> None:
    held = Held()
    held.let_go.set()
    known = Evaluation(commit="c1", status="completed", results=PASSED, counts=TestCounts(passed=1, total=1))
    skipped = Evaluation(commit="c2", status="skipped")
    async with held.open(known=(known, skipped)) as evaluator:
        for commit in ("c1", "c1'", "c2"):
            evaluator.submit(commit)
        assert await evaluator.wait_for("c1") == known
        await evaluator.drain(10)
    assert held.started == ["c2"]
    assert held.statuses == {"c1'": "completed", "c2": "completed"}


async def test_a_failing_harness_is_reported_and_the_others_go_on() -> None:
    held = Held()
    held.let_go.set()
    held.failing = {"c1"}
    async with held.open() as evaluator:
        evaluator.submit("c1")
        evaluator.submit("c2")
        await evaluator.drain(10)
    assert held.statuses == {"c1": "error", "c2": "completed"}
    assert [error.message for error in held.failures] == ["the runtime died"]


async def test_leaving_without_drain_ends_at_once() -> None:
    held = Held()
    with anyio.fail_after(5):
        async with held.open() as evaluator:
            evaluator.submit("c1")
            await anyio.wait_all_tasks_blocked()
    assert held.evaluations == []
