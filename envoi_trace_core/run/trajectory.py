"""One attempt at a trajectory, from the lease to the last snapshot.

archive    what outlives every sandbox: storage, lease, journal, events, mirror, snapshots
workplace  the sandboxes, the environment's runtime, the relay, the tests
turns      prompts to the agent until it is solved, out of budget, or fails
ending     the last evaluations, the end as a fact, repo.bundle and the last snapshot
"""

from __future__ import annotations

import time

import anyio

from envoi_trace_core.errors import EnvoiTraceError, UsageError
from envoi_trace_core.run.archive import Archive, open_archive
from envoi_trace_core.run.beside import CANCEL, run_beside
from envoi_trace_core.run.conversation import Conversation
from envoi_trace_core.run.observer import Observer, RunStart
from envoi_trace_core.run.outcome import RunEnd, RunOutcome, end_of, taken_over
from envoi_trace_core.run.plan import RunPlan
from envoi_trace_core.run.resume import SOLVED_BEFORE, solved_before
from envoi_trace_core.run.stop import StopSignal
from envoi_trace_core.run.stop_requests import end_when_requested
from envoi_trace_core.run.workplace import open_workplace

WIND_DOWN_S = 30.0
"""How long after an interrupt the turn may take to end by itself, before everything is cancelled."""
SAVE_TIMEOUT_S = 300.0
"""How long the last uploads may take."""


async def run_trajectory(plan: RunPlan, *, observer: Observer, stop: StopSignal, restarted: bool = False) -> RunOutcome:
    """Run a trajectory until it ends or fails; what it recorded is saved either way.

    Args:
        plan: What to run; an id that exists already goes on.
        observer: Told what happens.
        stop: Ends the run when it is set, and says why the run ended.
        restarted: Whether this is a further attempt of the same program, so that the start is not told again.

    Raises:
        UsageError: It can't be run like that; nothing was started.
        StorageError: The storage can't even be opened, or another run holds the trajectory.
    """
    deadline = time.monotonic() + plan.left_s
    ended_before = await solved_before(plan)
    if ended_before is not None:
        return ended_before
    async with open_archive(plan, observer, restarted=restarted) as archive:
        if archive.state.is_solved:
            return archive.outcome(SOLVED_BEFORE)
        observer = archive.observer
        observer.started(
            RunStart(
                trajectory_id=plan.config.trajectory_id,
                trace_uri=archive.trace_uri,
                bundle_uri=archive.bundle_uri,
                max_parts=plan.config.max_parts,
                resumed=archive.is_resumed and not restarted,
            )
        )
        end = await _work(plan, archive, observer, stop, deadline)
        if await archive.is_taken_over():
            return archive.outcome(taken_over(plan.config.trajectory_id))
        with anyio.move_on_after(SAVE_TIMEOUT_S, shield=True) as scope:
            await archive.save(end)
        if scope.cancelled_caught:
            observer.note(f"saving took longer than {SAVE_TIMEOUT_S:.0f} s; what is on this machine is whole")
        return archive.outcome(end)


async def _work(plan: RunPlan, archive: Archive, observer: Observer, stop: StopSignal, deadline: float) -> RunEnd:
    """Everything that can fail: an error becomes the run's end, and never takes the record with it."""
    is_working = False

    async def converse() -> None:
        nonlocal is_working
        async with open_workplace(plan, archive, observer, stop) as workplace:
            is_working = True
            conversation = Conversation(
                plan=plan, archive=archive, workplace=workplace, observer=observer, stop=stop, deadline=deadline
            )
            try:
                await run_beside(conversation.hold, workplace.force_move)
            finally:
                await workplace.finish_evaluations()

    async def cancel_when_interrupted() -> object:
        await stop.wait_interrupted()
        with anyio.move_on_after(WIND_DOWN_S):
            await archive.wait_turn_over()
        return CANCEL

    try:
        await run_beside(
            converse,
            cancel_when_interrupted,
            lambda: end_when_requested(archive.storage, archive.id, stop),
            archive.lease.wait_lost,
            archive.writer.wait_fenced,
        )
    except EnvoiTraceError as error:
        if isinstance(error, UsageError) and not is_working:
            raise  # nothing was started; what comes later is how the run ended
        if stop.request is None:
            return end_of(error)
        observer.note(f"while the run was ending: {error.message}")
    assert stop.request is not None, "a conversation ends by a request to stop or by an error"
    return RunEnd(
        reason=stop.request.reason,
        message=stop.request.message,
        exit_status=stop.request.exit_status,
        worth_restarting=stop.request.worth_restarting,
        moves=stop.request.moves,
    )
