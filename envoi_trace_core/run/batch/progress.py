"""A batch while it runs, as counts: all that a table, or a line, shows of it."""

from __future__ import annotations

from typing import Protocol

import attrs

from envoi_trace_core.domain.facts import EvaluationRecorded, Fact, PartRecorded, UsageRecorded
from envoi_trace_core.run.batch.cells import Batch
from envoi_trace_core.run.batch.money import Money
from envoi_trace_core.run.batch.results import TrialResult
from envoi_trace_core.run.observer import RunStart
from envoi_trace_core.trace.fold import TraceState


class BatchObserver(Protocol):
    """Told what happens to trials. Its methods must not wait and must not raise."""

    def started(self, trajectory_id: str, *, goes_on: bool) -> None:
        """An attempt begins, or goes on."""
        ...

    def note(self, trajectory_id: str, line: str) -> None:
        """Something that the user should read."""
        ...

    def ended(self, result: TrialResult) -> None:
        """A trial is over, for this command."""
        ...


@attrs.define(kw_only=True)
class CellProgress:
    """Counts of one cell's trials."""

    name: str
    trials: int
    running: int = 0
    ended: int = 0
    solved: int = 0
    failed: int = 0
    """By the agent, or with every retry used up."""
    infrastructure_failures: int = 0
    """Attempts that failed by no fault of the agent, retried or not."""
    left: int = 0
    """Neither running nor waiting nor ended: interrupted, not started, handed over, refused."""
    parts: int = 0
    cost_usd: float | None = None

    @property
    def waiting(self) -> int:
        """Trials whose turn has not come."""
        return self.trials - self.running - self.ended - self.left


@attrs.define(kw_only=True)
class Progress:
    """Counts of all cells, by name."""

    cells: dict[str, CellProgress]

    @classmethod
    def of(cls, batch: Batch) -> Progress:
        """Before anything is known."""
        return cls(cells={cell.name: CellProgress(name=cell.name, trials=batch.trials) for cell in batch.cells})

    def take(self, result: TrialResult) -> None:
        """Count a trial that is over. Its parts and cost were counted while it ran, if it ran here."""
        cell = self.cells[result.cell]
        cell.infrastructure_failures += result.infrastructure_failures
        if result.status == "ended":
            cell.ended += 1
            cell.solved += result.is_solved
            cell.failed += result.is_failed
        else:
            cell.left += 1

    def add(self, cell: str, *, parts: int, cost_usd: float | None) -> None:
        """Count what was recorded."""
        counts = self.cells[cell]
        counts.parts += parts
        if cost_usd is not None:
            counts.cost_usd = (counts.cost_usd or 0.0) + cost_usd


@attrs.define(kw_only=True)
class AttemptObserver:
    """Watches one trajectory: it keeps three numbers, and nothing that the trajectory holds."""

    cell: str
    trajectory_id: str
    progress: Progress
    money: Money
    behind: BatchObserver
    parts: int = 0
    cost_usd: float = 0.0

    def started(self, start: RunStart) -> None:
        """Told of the trial already."""

    def note(self, line: str) -> None:
        """Handed on."""
        self.behind.note(self.trajectory_id, line)

    def fact(self, fact: Fact, state: TraceState) -> None:
        """Count."""
        if not isinstance(fact, PartRecorded | UsageRecorded | EvaluationRecorded):
            return
        parts, cost_usd = state.part_count, state.total_cost_usd
        spent = None if cost_usd is None else cost_usd - self.cost_usd
        self.progress.add(self.cell, parts=parts - self.parts, cost_usd=spent)
        self.parts, self.cost_usd = parts, cost_usd or 0.0
        self.money.spent(self.trajectory_id, cost_usd)
