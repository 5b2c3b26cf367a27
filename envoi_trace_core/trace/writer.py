"""Snapshots of a trace to its storage: coalesced, conditional, and never in the way of the run."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.background import background_tasks
from envoi_trace_core.errors import ConditionFailedError, EnvoiTraceError, KeyMissingError, StorageError
from envoi_trace_core.protocols import Absent, AtVersion, Storage
from envoi_trace_core.trace.encode import TraceEncoder
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.keys import trace_key

MAX_TIME_SHARE = 0.2
"""Of the time that passes, at most that much is spent on snapshots."""
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0


@attrs.define
class TraceWriter:
    """Writes `trace.parquet` whenever the state has moved on. Made by `TraceWriter.open`.

    Each snapshot is put against the version that this writer wrote last. When that is refused, another run has
    taken the trajectory over: this writer is fenced, and writes nothing ever again.
    """

    storage: Storage
    trajectory_id: str
    state: TraceState
    last_error: StorageError | None = None
    """Why the newest snapshot could not be written; None when it could."""
    fenced: StorageError | None = None
    """Set for good once another run has written the trace."""
    written_version: int = -1
    """`TraceState.version` of the newest snapshot in the storage; -1 before the first."""

    _condition: Absent | AtVersion = Absent()
    _encoder: TraceEncoder = attrs.field(factory=TraceEncoder)
    _unanswered: list[str] = attrs.field(factory=list)
    """Hashes of snapshots whose put failed: the storage may have taken them for all that."""
    _lock: anyio.Lock = attrs.field(factory=anyio.Lock)
    _wake: anyio.Event = attrs.field(factory=anyio.Event)
    _fenced_event: anyio.Event = attrs.field(factory=anyio.Event)

    @classmethod
    @asynccontextmanager
    async def open(cls, storage: Storage, trajectory_id: str, state: TraceState) -> AsyncIterator[TraceWriter]:
        """Write snapshots of `state` in the background until the context is left; `flush` before that.

        The caller holds the trajectory's lease. Only the thread of this event loop may change the state.

        Raises:
            StorageError: The storage can't be reached.
        """
        info = await storage.stat(trace_key(trajectory_id))
        writer = cls(storage, trajectory_id, state, condition=AtVersion(info.version) if info is not None else Absent())
        async with background_tasks() as group:
            group.start_soon(writer._write_forever)
            yield writer

    @property
    def key(self) -> str:
        """Where the trace stands in the storage."""
        return trace_key(self.trajectory_id)

    @property
    def healthy(self) -> bool:
        """Whether the newest attempt to write succeeded."""
        return self.last_error is None

    def submit(self, state_version: int | None = None) -> None:
        """Say that the state has moved on. Returns at once; several become one snapshot."""
        if state_version is None or state_version > self.written_version:
            self._wake.set()

    async def flush(self, deadline_s: float) -> None:
        """Return once the storage has the state as it is now; retries within the deadline.

        Raises:
            StorageError: It could not be written in time, or another run took over.
        """
        if self.state.trajectory is None:
            return  # nothing has begun
        wanted = self.state.version
        delay_s = FIRST_RETRY_S
        with anyio.move_on_after(deadline_s):
            while self.written_version < wanted:
                await self._write()
                if self.fenced is not None:
                    raise self.fenced
                if self.last_error is not None:
                    await anyio.sleep(delay_s)
                    delay_s = min(2 * delay_s, LAST_RETRY_S)
        if self.written_version < wanted:
            why = self.last_error.message if self.last_error is not None else "the storage did not answer"
            raise StorageError(
                f"the last snapshot of {self.storage.uri(self.key)} could not be written in {deadline_s:.0f} s: {why}",
                mend=f"envoi-trace upload {self.trajectory_id}",
                retryable=True,
            ) from self.last_error

    async def wait_fenced(self) -> None:
        """Wait until another run takes the trajectory over, and raise then.

        Raises:
            StorageError: Another run took over.
        """
        await self._fenced_event.wait()
        assert self.fenced is not None
        raise self.fenced

    async def _write_forever(self) -> None:
        retry_s = FIRST_RETRY_S
        while self.fenced is None:
            await self._wake.wait()
            self._wake = anyio.Event()
            began_at = time.monotonic()
            await self._write()
            if self.last_error is None:
                retry_s = FIRST_RETRY_S
                took_s = time.monotonic() - began_at
                await anyio.sleep(took_s * (1 / MAX_TIME_SHARE - 1))
            else:
                await anyio.sleep(retry_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries
                retry_s = min(2 * retry_s, LAST_RETRY_S)
                self._wake.set()

    async def _write(self) -> None:
        """Write the state as it is now, once; the outcome is in the attributes."""
        async with self._lock:
            if self.fenced is not None or self.state.trajectory is None or self.written_version >= self.state.version:
                return
            version, snapshot = self.state.version, self.state.snapshot()
            try:
                data = await anyio.to_thread.run_sync(self._encoder.encode, snapshot)
                await self._put(data)
            except StorageError as error:
                self.last_error = error
            except EnvoiTraceError as error:
                self.last_error = StorageError(error.message)
            except Exception as error:  # noqa: BLE001 - a run never dies of its snapshot: the journal has all
                self.last_error = StorageError(f"the snapshot could not be made: {error!r:.300}")
            else:
                self.last_error, self.written_version = None, version

    async def _put(self, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self._unanswered.append(digest)
        try:
            version = await self.storage.put(self.key, data, condition=self._condition)
        except ConditionFailedError as error:
            if not await self._adopt_unanswered():
                raise self._fence() from error
            version = await self.storage.put(self.key, data, condition=self._condition)
        self._condition = AtVersion(version)
        self._unanswered.clear()

    async def _adopt_unanswered(self) -> bool:
        """Whether what stands in the storage is a snapshot of our own, of which the answer was lost."""
        for _ in range(3):
            info = await self.storage.stat(self.key)
            if info is None:
                return False
            try:
                found = await self.storage.get(self.key)
            except KeyMissingError:
                return False
            again = await self.storage.stat(self.key)
            if again is not None and again.version == info.version:
                self._condition = AtVersion(info.version)
                return hashlib.sha256(found).hexdigest() in self._unanswered
        return False

    def _fence(self) -> StorageError:
        self.fenced = StorageError(
            f"{self.storage.uri(self.key)} was written or removed by another run of trajectory {self.trajectory_id}; "
            "this one writes no more of it",
            mend=f"envoi-trace status {self.trajectory_id}",
        )
        self._fenced_event.set()
        return self.fenced
