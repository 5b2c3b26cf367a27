"""Uploads what a resume needs, so that a run goes on when this whole machine is gone.

Data goes before what refers to it: native events, the repository, the agents' states, then the journal, and all of
them as they stood at one fact. It never gets in the way of the run: one round at a time, at a bounded share of the
time; a store that fails is tried again, less and less often.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import attrs
from anyio import to_thread

from envoi_trace_core.background import background_tasks
from envoi_trace_core.errors import ConditionFailedError, EnvoiTraceError, StorageError
from envoi_trace_core.protocols import Absent
from envoi_trace_core.repo.git import Git
from envoi_trace_core.repo.increments import write_increment
from envoi_trace_core.run.restoring import AGENT_STATE, MIRROR, StoredRun
from envoi_trace_core.run.stored_log import delete_all
from envoi_trace_core.state import trajectory_dir
from envoi_trace_core.trace.keys import lease_key

MIN_INTERVAL_S = 0.5
"""Between two rounds: so much is lost at most when the machine itself is lost, as long as the store is quick."""
MAX_TIME_SHARE = 0.2
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0


@attrs.frozen
class Moment:
    """How far a run was at one fact."""

    journal_bytes: int = 0
    events_bytes: int = 0
    head: str | None = None
    """The newest commit that a fact names."""


@attrs.define(kw_only=True)
class Preserver:
    """Keeps the storage's copy of a run close behind this machine's. Made by `Preserver.open`."""

    stored: StoredRun
    is_taken_over: Callable[[], Awaitable[bool]]
    note: Callable[[str], None]
    last_error: StorageError | None = attrs.field(default=None, init=False)
    """Why the newest round failed; None when it did not."""

    _goal: Moment = attrs.field(factory=Moment, init=False)
    _done: Moment = attrs.field(factory=Moment, init=False)
    _states_done: dict[str, tuple[int, int]] = attrs.field(factory=dict, init=False)
    _is_over: bool = attrs.field(default=False, init=False)
    """Whether nothing may be uploaded any more: another run goes on with it, or it has ended for good."""
    _wake: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _lock: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, stored: StoredRun, is_taken_over: Callable[[], Awaitable[bool]], note: Callable[[str], None]
    ) -> AsyncIterator[Preserver]:
        """Upload in the background until the context is left; `flush` before that."""
        preserver = cls(stored=stored, is_taken_over=is_taken_over, note=note)
        async with background_tasks() as group:
            group.start_soon(preserver._upload_forever)
            yield preserver

    @property
    def folder(self) -> Path:
        """The run's, on this machine."""
        return trajectory_dir(self.stored.trajectory_id)

    def submit(self, moment: Moment | None = None) -> None:
        """Say that the run, or only an agent's state, has moved on. Returns at once."""
        self._goal = moment or self._goal
        self._wake.set()

    async def flush(self, deadline_s: float) -> None:
        """Return once the storage has all; retries within the deadline.

        Raises:
            StorageError: It could not be uploaded in time, or another run took over.
        """
        delay_s = FIRST_RETRY_S
        with anyio.move_on_after(deadline_s):
            while True:
                await self._round()
                if self.last_error is None:
                    return
                if self._is_over:
                    break
                await anyio.sleep(delay_s)
                delay_s = min(2 * delay_s, LAST_RETRY_S)
        why = self.last_error.message if self.last_error is not None else "the storage did not answer"
        raise StorageError(f"what a resume elsewhere needs could not be stored: {why}", retryable=True)

    async def remove(self) -> None:
        """Take away what is stored: the run has ended for good. The lease stays, as long as it is held.

        Raises:
            StorageError: Something could not be removed.
        """
        async with self._lock:
            self._is_over = True
            await delete_all(self.stored.storage, self.stored.prefix, keep=[lease_key(self.stored.trajectory_id)])

    # -- rounds -----------------------------------------------------------------------------------

    async def _upload_forever(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._is_over:
            await self._wake.wait()
            self._wake = anyio.Event()
            began_at = time.monotonic()
            await self._round()
            if self.last_error is None:
                retry_s = FIRST_RETRY_S
                took_s = time.monotonic() - began_at
                await anyio.sleep(max(MIN_INTERVAL_S, took_s * (1 / MAX_TIME_SHARE - 1)))
            else:
                await anyio.sleep(retry_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries
                retry_s = min(2 * retry_s, LAST_RETRY_S)
                self._wake.set()

    async def _round(self) -> None:
        """Upload what is new, once; the outcome is in `last_error`."""
        async with self._lock:
            if self._is_over:
                return
            goal = self._goal
            try:
                await self._ensure_held()
                await self.stored.events.upload(goal.events_bytes)
                await self._upload_repository(goal)
                await self._upload_agent_states()
                await self.stored.journal.upload(goal.journal_bytes)
                await self._upload_log()
            except ConditionFailedError as error:
                self._is_over = True
                self.last_error = StorageError(f"another run goes on with it: {error.message}")
                self.note("another run uploads under the same id: this one does not any more")
            except StorageError as error:
                self.last_error = error
            except (EnvoiTraceError, OSError) as error:
                self.last_error = StorageError(str(error))
            else:
                self.last_error, self._done = None, goal

    async def _ensure_held(self) -> None:
        """Not everything that is uploaded is refused by the storage when another run has uploaded it too."""
        if await self.is_taken_over():
            raise ConditionFailedError("the lease is lost")

    async def _upload_repository(self, goal: Moment) -> None:
        # A commit of a test call is told of by a fact too, so the journal's growth says when to look.
        if goal.head is None or goal.journal_bytes == self._done.journal_bytes:
            return
        stored = self.stored
        number = stored.bundles + 1
        with TemporaryDirectory(prefix="envoi-trace-") as scratch:
            bundle = Path(scratch) / "increment.bundle"
            git = Git(directory=self.folder / MIRROR)
            write = partial(write_increment, git, bundle, number=number, head=goal.head)
            if not await to_thread.run_sync(write):
                return
            key = stored.bundle_key(number)
            try:
                await stored.storage.put(key, bundle, condition=Absent())
            except ConditionFailedError:
                # Bundles of the same commits need not be the same bytes: an earlier try may have stored one with
                # fewer commits. Only the holder of the lease writes here, so this one takes its place.
                await self._ensure_held()
                await stored.storage.put(key, bundle)
        stored.bundles = number

    async def _upload_log(self) -> None:
        path = self.stored.log.path
        if await to_thread.run_sync(path.exists):
            await self.stored.log.upload(path.stat().st_size)

    async def _upload_agent_states(self) -> None:
        for path in sorted(self.folder.glob(f"{AGENT_STATE}*")):
            if path.suffix == ".tmp":
                continue
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size)
            if self._states_done.get(path.name) != version:
                await self.stored.storage.put(self.stored.agent_state_key(path.name), path)
                self._states_done[path.name] = version
