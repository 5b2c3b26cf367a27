"""Go on after a failure, and know when to stop trying (`--auto-resume`)."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import attrs
from anyio import to_thread

from envoi_trace_core.errors import EnvoiTraceError, StorageError, UsageError
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.protocols import Storage
from envoi_trace_core.run.beside import run_beside
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.observer import Observer
from envoi_trace_core.run.outcome import EXIT_STATUS, RunOutcome, end_of
from envoi_trace_core.run.plan import RunPlan, make_plan
from envoi_trace_core.run.restart_mark import mark_restart
from envoi_trace_core.run.stop import StopSignal
from envoi_trace_core.run.stop_requests import end_when_requested
from envoi_trace_core.run.trajectory import run_trajectory

SAME_ERROR_LIMIT = 3
"""The same error that many times in a row, with no new part in between, is no accident."""
MAX_DELAY_S = 300.0
MARK_TIMEOUT_S = 10.0


async def run_with_restarts(
    config: RunConfig, plugins: Plugins, *, observer: Observer, stop: StopSignal, left_s: float | None = None
) -> RunOutcome:
    """Run a trajectory to its end, through as many restarts as the configuration allows.

    Args:
        config: What to run.
        plugins: What is installed.
        observer: Told what happens.
        stop: Ends the run when it is set.
        left_s: What is left of the timeout when another program began the run; None for all of it.

    Raises:
        UsageError: The configuration can't be run; nothing was started.
    """
    deadline = time.monotonic() + (config.timeout_s if left_s is None else left_s)
    restarts = Restarts(config)
    plan: RunPlan | None = None
    outcome: RunOutcome | None = None
    while True:
        try:
            made = await to_thread.run_sync(make_plan, config, plugins)  # a task's own code may take its time
            plan = attrs.evolve(made, left_s=max(deadline - time.monotonic(), 0.0))
            if outcome is None:
                _say_when_it_moves(plan, observer)
            outcome = await run_trajectory(plan, observer=observer, stop=stop, restarted=outcome is not None)
        except EnvoiTraceError as error:
            if plan is None or outcome is None:
                raise
            outcome = _could_not_go_on(outcome, error)
        if stop.interrupted or deadline - time.monotonic() <= 0:
            return outcome
        delay_s = restarts.delay_s(outcome, observer)
        if delay_s is None or await _interrupted_within(plan, outcome, stop, delay_s):
            return outcome
        stop.reset()


@attrs.define
class Restarts:
    """Decides after each attempt whether there is another one."""

    config: RunConfig
    _count: int = 0
    _last: tuple[str | None, int] | None = None
    _repeats: int = 0

    def delay_s(self, outcome: RunOutcome, observer: Observer) -> float | None:
        """How long to wait before the next attempt; None when there is none."""
        # A move names its sandbox, so it is never the same message twice.
        this = ("" if outcome.moves else outcome.message, outcome.parts)
        self._repeats = self._repeats + 1 if this == self._last else 1
        self._last = this
        if not (outcome.moves or (self.config.auto_resume and outcome.worth_restarting)):
            return None
        if self._repeats >= SAME_ERROR_LIMIT:
            observer.note(f"gave up: the same error {self._repeats} times in a row, and no new part: {outcome.message}")
            return None
        if outcome.moves:
            observer.note(str(outcome.message))
            return 0.0
        if self._count == self.config.max_restarts:
            return None
        self._count += 1
        delay_s = _backed_off_s(self.config.restart_delay_s, self._repeats)
        observer.note(f"{outcome.reason}: {outcome.message}; goes on in {delay_s:.0f} s (restart {self._count})")
        return delay_s


def _could_not_go_on(before: RunOutcome, error: EnvoiTraceError) -> RunOutcome:
    """A further attempt that could not even begin: what was recorded before stands, and it is no wrong use any more."""
    end = end_of(error)
    return attrs.evolve(
        before,
        reason=end.reason,
        message=error.message,
        mend=error.mend,
        exit_status=EXIT_STATUS.get(end.reason, EXIT_STATUS["infrastructure_error"]),
        worth_restarting=not isinstance(error, UsageError),
        moves=False,
    )


def _say_when_it_moves(plan: RunPlan, observer: Observer) -> None:
    config, bound_s = plan.config, plan.sandbox.spec.max_lifetime_s(plan.sandbox.options)
    if bound_s is not None and config.timeout_s > bound_s:
        observer.note(
            f"{config.sandbox} sandboxes live {bound_s:g} s at most, and --timeout is {config.timeout_s:g} s: "
            "a run that takes longer moves into a new one"
        )


def _backed_off_s(base_s: float, failures: int) -> float:
    """Doubled with each failure in a row, with jitter so that many runs do not come back at once."""
    return min(base_s * 2.0 ** (failures - 1), MAX_DELAY_S) * random.uniform(0.8, 1.2)  # noqa: S311


async def _interrupted_within(plan: RunPlan, outcome: RunOutcome, stop: StopSignal, delay_s: float) -> bool:
    """Wait; a signal or `envoi-trace stop` ends the wait, and the run."""
    with anyio.move_on_after(MARK_TIMEOUT_S):
        await _mark(plan, outcome)
    with anyio.move_on_after(delay_s):
        await run_beside(stop.wait_interrupted, partial(_watch_storage, plan, stop))
    return stop.interrupted


async def _mark(plan: RunPlan, outcome: RunOutcome) -> None:
    """Whoever finds the run in the meantime, because this program died, shall know that it was to go on."""
    if outcome.ended_at is None:
        return
    with suppress(StorageError):
        async with _opened_storage(plan) as storage:
            await mark_restart(storage, outcome.trajectory_id, outcome.ended_at)


async def _watch_storage(plan: RunPlan, stop: StopSignal) -> None:
    with suppress(StorageError):
        async with _opened_storage(plan) as storage:
            await end_when_requested(storage, plan.config.trajectory_id, stop)


@asynccontextmanager
async def _opened_storage(plan: RunPlan) -> AsyncIterator[Storage]:
    """Between two attempts nobody else has it open."""
    storage = await plan.storage.spec.create(plan.storage.options)
    try:
        yield storage
    finally:
        await storage.close()
