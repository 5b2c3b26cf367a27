"""Go on after a failure, and know when to stop trying (`--auto-resume`)."""

from __future__ import annotations

import random
import time

import anyio
import attrs

from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.observer import Observer
from envoi_trace_core.run.outcome import RunOutcome
from envoi_trace_core.run.plan import make_plan
from envoi_trace_core.run.stop import StopSignal
from envoi_trace_core.run.trajectory import run_trajectory

SAME_ERROR_LIMIT = 3
"""The same error that many times in a row, with no new part in between, is no accident."""
MAX_DELAY_S = 300.0


async def run_with_restarts(config: RunConfig, plugins: Plugins, *, observer: Observer, stop: StopSignal) -> RunOutcome:
    """Run a trajectory to its end, through as many restarts as the configuration allows.

    Raises:
        UsageError: The configuration can't be run; nothing was started.
    """
    deadline = time.monotonic() + config.timeout_s
    same_error = 0
    last: RunOutcome | None = None
    for restart in range(config.max_restarts + 1):
        left_s = config.timeout_s if restart == 0 else deadline - time.monotonic()
        plan = make_plan(attrs.evolve(config, timeout_s=max(left_s, 0.0)), plugins)
        outcome = await run_trajectory(plan, observer=observer, stop=stop, restarted=restart > 0)
        if not (config.auto_resume and outcome.worth_restarting) or stop.interrupted:
            return outcome
        repeated = last is not None and (last.message, last.parts) == (outcome.message, outcome.parts)
        same_error = same_error + 1 if repeated else 1
        last = outcome
        if same_error >= SAME_ERROR_LIMIT:
            observer.note(f"gave up: the same error {same_error} times in a row, and no new part: {outcome.message}")
            return outcome
        if restart == config.max_restarts or deadline - time.monotonic() <= 0:
            return outcome
        delay_s = _delay_s(config.restart_delay_s, same_error)
        observer.note(f"{outcome.reason}: {outcome.message}; goes on in {delay_s:.0f} s (restart {restart + 1})")
        if await _interrupted_within(stop, delay_s):
            return outcome
        stop.reset()
    raise AssertionError("max_restarts is at least 0")


def _delay_s(base_s: float, failures: int) -> float:
    """Doubled with each failure in a row, with jitter so that many runs do not come back at once."""
    return min(base_s * 2.0 ** (failures - 1), MAX_DELAY_S) * random.uniform(0.8, 1.2)  # noqa: S311


async def _interrupted_within(stop: StopSignal, delay_s: float) -> bool:
    with anyio.move_on_after(delay_s):
        await stop.wait_interrupted()
        return True
    return False
