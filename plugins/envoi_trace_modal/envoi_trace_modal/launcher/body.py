"""What runs on Modal. The function is pickled by its name, so this module must be light and importable there.

A preempted or crashed input is started again from its beginning, with the same arguments, on another machine: the
trajectory then goes on from its storage, and its agent, which lives in a sandbox, has not even noticed.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envoi_trace_core.protocols import Storage
    from envoi_trace_core.run.config import RunConfig
    from envoi_trace_core.run.observer import Observer
    from envoi_trace_core.run.outcome import RunOutcome
    from envoi_trace_core.run.stop import StopSignal
    from envoi_trace_modal.launcher.job import Job, Report

START_TOLERANCE_S = 600.0
"""A run that starts within has all of its timeout; later, only restarts come."""
LEASE_POLL_S = 2.0
SECRET_TIMEOUT_S = 60.0


def orchestrate(job_text: str, task: bytes, environment: bytes) -> str:
    """Run a trajectory to its end; gives a `Report` as JSON.

    Raises:
        Exception: A fault, after which Modal shall start it again.
    """
    import anyio

    from envoi_trace_core.run.config import RunConfig
    from envoi_trace_modal.launcher.credentials import put_in_place
    from envoi_trace_modal.launcher.folders import unpack
    from envoi_trace_modal.launcher.job import Job

    job = Job.from_json(job_text)
    config = put_in_place(RunConfig.from_json(job.config))
    elsewhere = Path(mkdtemp(prefix="envoi-trace-"))
    config = with_folders(
        config,
        task=unpack(task, Path(config.task), elsewhere / "task", job.task_hash),
        environment=unpack(environment, Path(config.environment), elsewhere / "environment", job.environment_hash),
    )
    report = anyio.run(_run, config, job)
    return report.to_json()


def with_folders(config: RunConfig, *, task: Path, environment: Path) -> RunConfig:
    """The configuration with the folders where they are now."""
    import attrs

    return attrs.evolve(config, task=str(task), environment=str(environment))


async def _run(config: RunConfig, job: Job) -> Report:
    import anyio

    from envoi_trace_core.cli.run_display import RunDisplay
    from envoi_trace_core.errors import EnvoiTraceError
    from envoi_trace_core.run.stop import StopSignal
    from envoi_trace_modal.launcher.job import Report

    display = RunDisplay()
    stop = StopSignal()
    report: Report | None = None
    failure: EnvoiTraceError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_listen, stop, display)
        try:
            report = Report(outcome=await _go(config, job, display, stop))
        except EnvoiTraceError as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        if failure.retryable:
            raise failure  # Modal starts it again
        display.note(f"error: {failure.message}")
        report = Report.of(failure)
    assert report is not None
    await _remove_secret(job, display)
    return report


async def _go(config: RunConfig, job: Job, observer: Observer, stop: StopSignal) -> RunOutcome:
    from envoi_trace_core.plugins import Plugins
    from envoi_trace_core.run.plan import make_plan
    from envoi_trace_core.run.restarts import run_with_restarts

    plugins = Plugins.load()
    plan = make_plan(config, plugins)
    storage = await plan.storage.spec.create(plan.storage.options)
    try:
        await wait_for_lease(storage, config.trajectory_id, observer)
    finally:
        await storage.close()
    left_s = timeout_left_s(config.timeout_s, job)
    return await run_with_restarts(config, plugins, observer=observer, stop=stop, left_s=left_s)


def timeout_left_s(timeout_s: float, job: Job) -> float:
    """What a run that is started again has left of its time."""
    from datetime import UTC, datetime

    passed_s = (datetime.now(UTC) - job.launched_at).total_seconds()
    return max(0.0, min(timeout_s, timeout_s + START_TOLERANCE_S - passed_s))


async def wait_for_lease(storage: Storage, trajectory_id: str, observer: Observer) -> None:
    """Wait while the lease may still be that of this run's own earlier attempt, on a machine that is gone.

    One heartbeat more shows that its holder lives: then there is nothing to wait for, and the run says so.
    """
    import anyio

    from envoi_trace_core.trace.lease import read_holder

    first = await read_holder(storage, trajectory_id)
    if first is None or not first.is_fresh:
        return
    observer.note(f"{first} has this trajectory: waiting to see whether it still lives")
    while first.is_fresh:
        await anyio.sleep(LEASE_POLL_S)
        holder = await read_holder(storage, trajectory_id)
        if holder is None or (holder.nonce, holder.heartbeat_at) != (first.nonce, first.heartbeat_at):
            return


async def _listen(stop: StopSignal, observer: Observer) -> None:
    """SIGUSR1 is how Modal cancels an input; SIGINT says that the machine is going to be taken away.

    In the second case nothing is ended: the run goes on elsewhere, and its agent works all the while.
    """
    import signal

    import anyio

    from envoi_trace_core.run.stop import StopRequest

    with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGINT) as signals:
        async for number in signals:
            if number == signal.SIGUSR1:
                observer.note("cancelled: the trace is being saved and the sandboxes closed")
                stop.ask(StopRequest(reason="interrupted", message="the function call was cancelled", exit_status=130))
            else:
                observer.note("this machine is being taken away: the run goes on in another one")


async def _remove_secret(job: Job, observer: Observer) -> None:
    if job.secret is None:
        return
    from envoi_trace_modal.launcher.engine import Engine
    from envoi_trace_modal.launcher.options import ModalLauncherOptions

    options = ModalLauncherOptions(environment=job.modal_environment or "")
    if not await Engine(app="", options=options).delete_secret(job.secret):
        observer.note(f"the secret {job.secret} of this run could not be removed: modal secret delete {job.secret}")
