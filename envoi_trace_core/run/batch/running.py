"""Runs a batch: so many trajectories at once, each through a launcher, until none is left that may start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import anyio
import attrs

from envoi_trace_core.errors import EnvoiTraceError, InterruptedRunError, StorageError, UsageError
from envoi_trace_core.protocols import Launcher, Storage
from envoi_trace_core.run.batch.cells import Batch, Trial
from envoi_trace_core.run.batch.money import Money
from envoi_trace_core.run.batch.progress import AttemptObserver, BatchObserver, Progress
from envoi_trace_core.run.batch.results import EXIT_INTERRUPTED, Attempt, BatchResult, TrialResult, TrialStatus
from envoi_trace_core.run.batch.stored import StoredBatch, read_attempt
from envoi_trace_core.run.outcome import RunOutcome
from envoi_trace_core.run.restart_mark import waits_for_restart
from envoi_trace_core.run.stop import StopRequest, StopSignal
from envoi_trace_core.trace.lease import is_held

MAX_RETRY_DELAY_S = 300.0
UNFINISHED = (None, "interrupted")
"""How an attempt stands that can go on."""


class BatchStop:
    """Ends every trajectory that runs, and lets no other start."""

    def __init__(self) -> None:
        self.request: StopRequest | None = None
        self._asked = anyio.Event()
        self._running: set[StopSignal] = set()

    def ask(self, request: StopRequest) -> None:
        """End the batch; the first request stays."""
        if self.request is not None:
            return
        self.request = request
        self._asked.set()
        for stop in self._running:
            stop.ask(request)

    @property
    def interrupted(self) -> bool:
        """Whether it must end."""
        return self.request is not None

    async def wait(self) -> None:
        """Wait until the batch must end."""
        await self._asked.wait()

    @contextmanager
    def for_one(self) -> Iterator[StopSignal]:
        """The signal of one trajectory, for as long as it runs."""
        stop = StopSignal()
        if self.request is not None:
            stop.ask(self.request)
        self._running.add(stop)
        try:
            yield stop
        finally:
            self._running.discard(stop)


@attrs.frozen(kw_only=True)
class Standing:
    """What a trial has behind it when its turn comes."""

    trial: Trial
    attempts: Sequence[Attempt]

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def is_unfinished(self) -> bool:
        """Whether its newest attempt can go on."""
        return self.last is not None and self.last.reason in UNFINISHED

    @property
    def failures(self) -> int:
        """Attempts that failed by no fault of the agent."""
        return sum(attempt.is_retried for attempt in self.attempts)

    def with_attempt(self, attempt: Attempt) -> Standing:
        """The same with an attempt as it is now."""
        others = [known for known in self.attempts if known.number != attempt.number]
        return attrs.evolve(self, attempts=(*others, attempt))

    def has_ended(self, retries: int) -> bool:
        """Whether nothing is left to do."""
        if self.last is None or self.is_unfinished:
            return False
        return not self.last.is_retried or self.failures > retries

    def next_attempt(self) -> int:
        """The number of the attempt that goes on, or is to be made."""
        if self.last is None:
            return 1
        return self.last.number if self.is_unfinished else self.last.number + 1


@attrs.define(kw_only=True)
class BatchRun:
    """One command's work on a batch."""

    batch: Batch
    launcher: Launcher
    storage: Storage
    observer: BatchObserver
    stop: BatchStop
    progress: Progress
    detach: bool = False

    _stored: StoredBatch = attrs.field(factory=StoredBatch, init=False)
    _money: Money = attrs.field(init=False)
    _results: dict[str, TrialResult] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._money = Money(self.batch.max_total_cost_usd)

    async def run(self) -> BatchResult:
        """Run what is left of the batch.

        Raises:
            StorageError: The storage can't be listed.
        """
        self._stored = await StoredBatch.find(self.storage, self.batch)
        self._count_what_is_stored()
        queue = iter(self._take_ended())
        async with anyio.create_task_group() as group:
            for _ in range(self.batch.concurrency):
                group.start_soon(self._work, queue)
        interrupted = None
        if self.stop.request is not None:
            interrupted = self.stop.request.exit_status or EXIT_INTERRUPTED
        ordered = [
            self._results[Trial(cell=cell, number=number).name]
            for cell in self.batch.cells
            for number in range(1, self.batch.trials + 1)
        ]
        return BatchResult(name=self.batch.name, trials=ordered, interrupted_status=interrupted)

    # -- what is left -----------------------------------------------------------------------------

    def _count_what_is_stored(self) -> None:
        for attempts in self._stored.attempts.values():
            for attempt in attempts:
                self._money.spent(attempt.trajectory_id, attempt.cost_usd)

    def _take_ended(self) -> Sequence[Trial]:
        """Trials that have something left to do: those that began go first, they may still hold sandboxes."""
        unfinished: list[Trial] = []
        new: list[Trial] = []
        for trial in self.batch.all_trials():
            standing = Standing(trial=trial, attempts=self._stored.of(self.batch, trial))
            for attempt in standing.attempts:
                self.progress.add(trial.cell.name, parts=attempt.parts, cost_usd=attempt.cost_usd)
            if standing.has_ended(self.batch.retries):
                self._end(self._result(standing, "ended", before=True))
            else:
                (unfinished if standing.attempts else new).append(trial)
        return [*unfinished, *new]

    async def _work(self, queue: Iterator[Trial]) -> None:
        for trial in queue:
            standing = Standing(trial=trial, attempts=self._stored.of(self.batch, trial))
            result = self._not_started(standing)
            if result is None:
                cell = self.progress.cells[trial.cell.name]
                cell.running += 1
                result = await self._run_trial(standing)
                cell.running -= 1
            self._end(result)

    def _not_started(self, standing: Standing) -> TrialResult | None:
        """What is said of a trial that may not start; None when it may."""
        if self.stop.request is not None:
            return self._result(standing, "not started", message="the batch was interrupted")
        if self._money.is_used_up:
            message = f"the total cost budget of ${self._money.limit_usd:g} is spent"
            return self._result(standing, "not started", message=message)
        error = self._stored.errors.get(standing.last.trajectory_id) if standing.last is not None else None
        return self._result(standing, "refused", message=error.message) if error is not None else None

    # -- one trial --------------------------------------------------------------------------------

    async def _run_trial(self, standing: Standing) -> TrialResult:
        """Attempt after attempt, until one says something of the agent."""
        while True:
            number = standing.next_attempt()
            trajectory_id = self.batch.trajectory_id(standing.trial, number)
            # Another command may have come first to this trial, since this one looked.
            if await self._is_held(trajectory_id):
                return self._held(standing, trajectory_id)
            standing, is_news = await self._look_again(standing, trajectory_id)
            if is_news:
                if standing.has_ended(self.batch.retries):
                    return self._result(standing, "ended", before=True)
                continue
            try:
                attempt = await self._attempt(standing, number)
            except InterruptedRunError:
                return self._result(standing, "interrupted")
            except UsageError as error:
                return self._result(standing, "refused", message=error.message)
            if attempt is None:
                handed_over = Attempt(trajectory_id=trajectory_id, number=number, reason=None)
                return self._result(standing.with_attempt(handed_over), "detached")
            standing = standing.with_attempt(attempt)
            if attempt.reason == "interrupted":
                return self._result(standing, "interrupted")
            if attempt.is_retried and await self._is_held(trajectory_id):
                return self._held(standing, trajectory_id)  # taken over: it goes on there
            if standing.has_ended(self.batch.retries):
                return self._result(standing, "ended")
            self.observer.note(trajectory_id, f"{attempt.reason}: {attempt.message}; attempt {number + 1} follows")
            delay_s = standing.trial.cell.config.restart_delay_s * 2.0 ** (standing.failures - 1)
            with anyio.move_on_after(min(delay_s, MAX_RETRY_DELAY_S)):
                await self.stop.wait()
            over = self._not_started(standing)
            if over is not None:
                return over

    async def _look_again(self, standing: Standing, trajectory_id: str) -> tuple[Standing, bool]:
        """What the storage has of an attempt by now, and whether it ended since this command looked."""
        found = await read_attempt(self.storage, trajectory_id)
        if found is None or found.reason in UNFINISHED:
            return standing, False
        self.progress.add(standing.trial.cell.name, parts=found.parts, cost_usd=found.cost_usd)
        self._money.spent(trajectory_id, found.cost_usd)
        return standing.with_attempt(found), True

    async def _is_held(self, trajectory_id: str) -> bool:
        """Whether another process runs it; a run that begins this moment is refused by its lease."""
        with suppress(StorageError):
            return await is_held(self.storage, trajectory_id)
        return False

    async def _attempt(self, standing: Standing, number: int) -> Attempt | None:
        trial = standing.trial
        config = self.batch.config(trial, number)
        known = standing.last if standing.last is not None and standing.last.number == number else None
        observer = AttemptObserver(
            cell=trial.cell.name,
            trajectory_id=config.trajectory_id,
            progress=self.progress,
            money=self._money,
            behind=self.observer,
            parts=known.parts if known is not None else 0,
            cost_usd=(known.cost_usd or 0.0) if known is not None else 0.0,
        )
        self.observer.started(config.trajectory_id, goes_on=known is not None)
        try:
            with self.stop.for_one() as stop:
                outcome = await self.launcher.launch(config, observer=observer, stop=stop, detach=self.detach)
        except (InterruptedRunError, UsageError):
            raise
        except Exception as error:  # noqa: BLE001 - one trajectory's failure must not end the others
            return _failed(observer, number, error)
        if outcome is None:
            return None
        self._take_outcome(observer, outcome)
        attempt = Attempt.of(outcome, number)
        return attrs.evolve(attempt, reason="interrupted") if await self._was_to_go_on(outcome) else attempt

    async def _was_to_go_on(self, outcome: RunOutcome) -> bool:
        """Whether the batch was interrupted while a failed run waited for its restart."""
        if not self.stop.interrupted or outcome.ended_at is None:
            return False
        with suppress(StorageError):
            return await waits_for_restart(self.storage, outcome.trajectory_id, outcome.ended_at)
        return False

    def _take_outcome(self, observer: AttemptObserver, outcome: RunOutcome) -> None:
        """What was not told as facts shows at the end: of a run elsewhere, or of one that was over before."""
        if outcome.parts != observer.parts or (outcome.cost_usd or 0.0) != observer.cost_usd:
            spent = None if outcome.cost_usd is None else outcome.cost_usd - observer.cost_usd
            self.progress.add(observer.cell, parts=outcome.parts - observer.parts, cost_usd=spent)
            self._money.spent(observer.trajectory_id, outcome.cost_usd)

    # -- results ----------------------------------------------------------------------------------

    def _result(
        self, standing: Standing, status: TrialStatus, *, message: str | None = None, before: bool = False
    ) -> TrialResult:
        return TrialResult(
            cell=standing.trial.cell.name,
            trial=standing.trial.number,
            status=status,
            attempts=tuple(standing.attempts),
            message=message,
            before=before,
        )

    def _held(self, standing: Standing, trajectory_id: str) -> TrialResult:
        return self._result(standing, "held", message=f"{trajectory_id} is being run by another process")

    def _end(self, result: TrialResult) -> None:
        self._results[f"{result.cell}.t{result.trial}"] = result
        self.progress.take(result)
        self.observer.ended(result)


def _failed(observer: AttemptObserver, number: int, error: Exception) -> Attempt:
    """An attempt that failed before, or beside, its own record."""
    return Attempt(
        trajectory_id=observer.trajectory_id,
        number=number,
        reason="infrastructure_error",
        message=error.message if isinstance(error, EnvoiTraceError) else f"{type(error).__name__}: {error}",
        parts=observer.parts,
        cost_usd=observer.cost_usd or None,
    )
