"""The `modal` launcher: checks here all that can be checked, then hands the run over to a function on Modal."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import attrs

from envoi_trace_core.errors import InterruptedRunError, UsageError
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.protocols import Storage
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.observer import Observer, RunStart
from envoi_trace_core.run.outcome import RunOutcome
from envoi_trace_core.run.plan import RunPlan, make_plan
from envoi_trace_core.run.resume import stored_config
from envoi_trace_core.run.stop import StopSignal
from envoi_trace_core.trace.keys import bundle_key, trace_key
from envoi_trace_core.trace.lease import read_holder
from envoi_trace_modal.launcher.body import orchestrate
from envoi_trace_modal.launcher.credentials import Luggage, collect
from envoi_trace_modal.launcher.distributions import distributions_here
from envoi_trace_modal.launcher.engine import FUNCTION_TIMEOUT_S, Engine
from envoi_trace_modal.launcher.failures import translated
from envoi_trace_modal.launcher.folders import pack
from envoi_trace_modal.launcher.following import Followed
from envoi_trace_modal.launcher.image import build_image, fingerprint
from envoi_trace_modal.launcher.job import Job
from envoi_trace_modal.launcher.options import ModalLauncherOptions

LOCAL = "local"


@attrs.define
class ModalLauncher:
    """Runs a trajectory's orchestrator as a function on Modal. Of many runs at once, the first deploys it."""

    options: ModalLauncherOptions
    _engine: Engine | None = attrs.field(default=None, init=False)
    _deploying: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    async def launch(
        self, config: RunConfig, *, observer: Observer, stop: StopSignal, detach: bool
    ) -> RunOutcome | None:
        """Start the run there, and follow it to its end unless `detach` is asked for.

        Raises:
            UsageError: It can't be run like that, or Modal refuses it; nothing was started.
            StorageError: The storage can't be reached from here.
            SandboxError: Modal can't be reached, or failed.
            InterruptedRunError: The user ended it before it began.
        """
        refuse_local(config)
        plugins = Plugins.load()
        plan = make_plan(config, plugins)
        storage = await plan.storage.spec.create(plan.storage.options)
        try:
            await refuse_held(storage, config.trajectory_id)
            followed = await _unless_interrupted(stop, self._start, plan, plugins, storage, observer)
            observer.started(
                RunStart(
                    trajectory_id=config.trajectory_id,
                    trace_uri=storage.uri(trace_key(config.trajectory_id)),
                    bundle_uri=storage.uri(bundle_key(config.trajectory_id)),
                    max_parts=config.max_parts,
                    resumed=False,
                )
            )
            observer.note(f"runs on Modal: app {followed.engine.app}, call {followed.call_id}")
            if not detach:
                return await followed.to_its_end(observer, stop)
            observer.note(f"envoi-trace logs --follow {_words(plan)}  (or status, stop)")
            return None
        finally:
            with anyio.move_on_after(10, shield=True):
                await storage.close()

    async def _start(self, plan: RunPlan, plugins: Plugins, storage: Storage, observer: Observer) -> Followed:
        luggage = await anyio.to_thread.run_sync(collect, plan)
        for line in luggage.notes:
            observer.note(line)
        task = await anyio.to_thread.run_sync(pack, plan.task.directory)
        environment = await anyio.to_thread.run_sync(pack, plan.environment.directory)
        engine = await self._deployed(plugins, observer)
        config = attrs.evolve(  # without `..`
            luggage.config, task=str(plan.task.directory), environment=str(plan.environment.directory)
        )
        async with self._secret(engine, luggage) as secret:
            job = Job(
                config=config.to_json(),
                task_hash=plan.task.content_hash,
                environment_hash=plan.environment.content_hash,
                secret=secret,
                modal_environment=engine.environment,
                launched_at=datetime.now(UTC),
            )
            call_id = await engine.spawn(secret, job.to_json(), task, environment)
        return Followed(
            engine=engine, call_id=call_id, secret=secret, storage=storage, trajectory_id=plan.config.trajectory_id
        )

    async def _deployed(self, plugins: Plugins, observer: Observer) -> Engine:
        """The function of these versions and options, put there by now."""
        async with self._deploying:
            if self._engine is not None:
                return self._engine
            distributions = await anyio.to_thread.run_sync(distributions_here, plugins)
            engine = Engine(app=f"{self.options.app}-{fingerprint(distributions, self.options)}", options=self.options)
            if not await engine.is_deployed():
                observer.note(f"deploying {engine.app} to Modal: its image is built once for these versions")
                with TemporaryDirectory(prefix="envoi-trace-") as scratch:
                    with translated("describing the image"):
                        image = build_image(distributions, self.options, Path(scratch))
                    await engine.deploy(image, orchestrate)
            await engine.delete_left_secrets()
            self._engine = engine
            return engine

    @asynccontextmanager
    async def _secret(self, engine: Engine, luggage: Luggage) -> AsyncIterator[str | None]:
        if not luggage.secret:
            yield None
            return
        attempts = self.options.max_retries + 2
        async with engine.secret(luggage.secret, lives_s=attempts * FUNCTION_TIMEOUT_S) as name:
            yield name


async def refuse_held(storage: Storage, trajectory_id: str) -> None:
    """Say here what a run there would only find out when nobody looks any more.

    Raises:
        UsageError: Another run holds the trajectory.
    """
    holder = await read_holder(storage, trajectory_id)
    if holder is not None and holder.is_fresh:
        raise UsageError(
            f"trajectory {trajectory_id} is being run by {holder}",
            mend=f"envoi-trace logs {trajectory_id} --follow, or end it: envoi-trace stop {trajectory_id}",
        )


def refuse_local(config: RunConfig) -> None:
    """What is local here would be local to a container there, and lost with it.

    Raises:
        UsageError: The storage or the sandbox is.
    """
    if config.storage == LOCAL:
        raise UsageError(
            "the orchestrator on Modal can't use the local storage: its files would be lost with the container",
            mend="--storage s3 --storage-opt bucket=NAME, or export AWS_S3_BUCKET=NAME",
        )
    if config.sandbox == LOCAL:
        raise UsageError(
            "the orchestrator on Modal can't use the local sandbox: it is a container itself, and no machine of yours",
            mend="--sandbox modal",
        )


def _words(plan: RunPlan) -> str:
    """The trajectory as commands of any terminal name it, with what their default would not find."""
    config = stored_config(plan)
    words = [config.trajectory_id, "--storage", config.storage]
    for option in config.storage_opts:
        words += ["--storage-opt", option]
    return shlex.join(words)


async def _unless_interrupted[*Args, T](
    stop: StopSignal, work: Callable[[*Args], Awaitable[T]], *arguments: *Args
) -> T:
    """The result of something that the user may end; what it began, it takes away itself when it is cancelled.

    Raises:
        InterruptedRunError: The user ended it.
    """
    results: list[T] = []
    failure: BaseException | None = None
    async with anyio.create_task_group() as group:

        async def cancel_when_interrupted() -> None:
            await stop.wait_interrupted()
            group.cancel_scope.cancel()

        group.start_soon(cancel_when_interrupted)
        try:
            results.append(await work(*arguments))
        except Exception as error:  # noqa: BLE001 - raised below, not wrapped into a group
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        status = stop.request.exit_status if stop.request is not None else None
        raise InterruptedRunError(
            "ended before the run was started; nothing is left on Modal", exit_status=status or 130
        )
    return results[0]
