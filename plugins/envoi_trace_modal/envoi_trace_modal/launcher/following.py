"""A run on Modal, watched from here: its log, its end, and the user's wish to end it."""

from __future__ import annotations

import time

import anyio
import attrs

from envoi_trace_core.errors import EnvoiTraceError, InterruptedRunError, SandboxError, StorageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.run.observer import Observer
from envoi_trace_core.run.outcome import RunOutcome
from envoi_trace_core.run.reading_log import LogReader
from envoi_trace_core.run.stop import StopSignal
from envoi_trace_core.run.stopping import stop_run
from envoi_trace_core.trace.lease import is_held
from envoi_trace_modal.launcher.engine import Engine
from envoi_trace_modal.launcher.job import Report

LOG_INTERVAL_S = 1.0
RESULT_INTERVAL_S = 10.0
"""How long one question for the result waits for it."""
OUTAGE_S = 900.0
"""How long Modal may be unreachable before nobody here waits any more; the run does not notice."""
STOP_TIMEOUT_S = 420.0
"""How long a run may take to save itself."""
AFTER_STOP_S = 60.0


@attrs.define(kw_only=True)
class Followed:
    """A run that was started."""

    engine: Engine
    call_id: str
    secret: str | None
    storage: Storage
    trajectory_id: str

    async def to_its_end(self, observer: Observer, stop: StopSignal) -> RunOutcome:
        """Tell the run's log as it comes, and wait for its end. An interrupt ends the run as it ends a local one.

        Raises:
            EnvoiTraceError: The run could not begin.
            SandboxError: Its function failed for good, or Modal can't be reached any more.
            InterruptedRunError: The user ended it, and it could not tell how far it was.
        """
        log = _Log(LogReader(self.storage, self.trajectory_id), observer)
        reports: list[Report] = []
        failure: EnvoiTraceError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(log.follow)
            group.start_soon(self._end_when_interrupted, observer, stop)
            try:
                reports.append(await self._report())
            except EnvoiTraceError as error:
                failure = error
            group.cancel_scope.cancel()
        await log.rest()
        if self.secret is not None and not _goes_on(failure):
            await self.engine.delete_secret(self.secret)
        if failure is not None:
            if stop.interrupted:
                raise InterruptedRunError(
                    f"the run was ended ({failure.message})", exit_status=_status(stop)
                ) from failure
            raise failure
        outcome = reports[0].unwrap()
        return attrs.evolve(outcome, exit_status=_status(stop)) if _is_interrupted(outcome, stop) else outcome

    async def _report(self) -> Report:
        failing_since: float | None = None
        while True:
            try:
                text = await self.engine.result(self.call_id, timeout_s=RESULT_INTERVAL_S)
            except SandboxError as error:
                if not error.retryable:
                    raise
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > OUTAGE_S:
                    raise SandboxError(
                        f"{error.message}; the run goes on without us",
                        mend=f"envoi-trace logs {self.trajectory_id} --follow",
                        retryable=True,
                    ) from error
                await anyio.sleep(RESULT_INTERVAL_S)
                continue
            failing_since = None
            if text is not None:
                return Report.from_json(text)

    async def _end_when_interrupted(self, observer: Observer, stop: StopSignal) -> None:
        await stop.wait_interrupted()
        try:
            if await is_held(self.storage, self.trajectory_id):
                how = await stop_run(self.storage, self.trajectory_id, timeout_s=STOP_TIMEOUT_S)
                if how in ("stopped", "was not running"):
                    await anyio.sleep(AFTER_STOP_S)  # its result comes in the meantime, and ends this wait
        except StorageError as error:
            observer.note(f"the run can't be asked to stop: {error.message}")
        observer.note("the function is cancelled")
        try:
            await self.engine.cancel(self.call_id)
        except EnvoiTraceError as error:
            observer.note(f"{error.message}; it is ended by: modal app stop {self.engine.app}")


@attrs.define
class _Log:
    """The run's log, line by line, without its times: it is read as it happens."""

    reader: LogReader
    observer: Observer
    _rest: str = ""

    async def follow(self) -> None:
        while True:
            await self.rest()
            await anyio.sleep(LOG_INTERVAL_S)

    async def rest(self) -> None:
        """Tell what came since the last time. A store that is down is asked again; the log is no record."""
        try:
            self._rest += (await self.reader.new()).decode(errors="replace")
        except StorageError:
            return
        *lines, self._rest = self._rest.split("\n")
        if not getattr(self.observer, "quiet", False):  # a display that is asked to tell no progress
            for line in lines:
                self.observer.note(line.partition(" ")[2])


def _goes_on(failure: EnvoiTraceError | None) -> bool:
    """Whether the run may still go on there, and need its secret."""
    return failure is not None and failure.retryable


def _status(stop: StopSignal) -> int:
    return (stop.request.exit_status if stop.request is not None else None) or 130


def _is_interrupted(outcome: RunOutcome, stop: StopSignal) -> bool:
    """Whether it ended as the user asked here: then with the status of the signal that came here."""
    return outcome.reason == "interrupted" and stop.interrupted and outcome.exit_status == 130
