"""One writer a trajectory: a lease in its storage, kept by conditional puts.

A lease is stale when its clock says so and no heartbeat is seen while one watches. Clocks of two machines may
disagree, or jump: a heartbeat that is older than `staleness_s`, or that lies in the future, is therefore believed
only after nothing changed for a while (two intervals; `staleness_s` when it lies in the future). A holder on this
very machine whose process is gone is stale at once, so a crash resumes without a wait.

Both times follow from the environment variable `ENVOI_TRACE_LEASE_STALENESS_S` (60 by default; all runs that share a
storage must agree): a heartbeat is made four times as often.

A holder that was stopped and wakes up notices at its next heartbeat, or at `ensure_held`; and whatever it writes
is refused, since snapshots are conditional puts too.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import anyio
import attrs

from envoi_trace_core.background import background_tasks
from envoi_trace_core.errors import ConditionFailedError, KeyMissingError, StorageError, UsageError
from envoi_trace_core.protocols import Absent, AtVersion, Storage
from envoi_trace_core.trace.convert_facts import value_from_json, value_to_json
from envoi_trace_core.trace.keys import lease_key

STALENESS_VARIABLE = "ENVOI_TRACE_LEASE_STALENESS_S"
STALENESS_S = 60.0
MIN_STALENESS_S, MAX_STALENESS_S = 1.0, 3600.0
HEARTBEATS_BEFORE_STALE = 4
RELEASE_TIMEOUT_S = 15.0
LOOK_TIMEOUT_S = 10.0
_CLOCK_TOLERANCE_S = 5.0
_POLLS = 8
_ATTEMPTS = 5

_held_here: set[str] = set()
"""Nonces of the leases that this process holds: one of its own pid that is not among them is left over."""


def configured_staleness_s() -> float:
    """After how long without a heartbeat a lease is stale.

    Raises:
        UsageError: The environment variable holds no number of seconds that makes sense.
    """
    text = os.environ.get(STALENESS_VARIABLE, "")
    if not text:
        return STALENESS_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not MIN_STALENESS_S <= seconds <= MAX_STALENESS_S:
        raise UsageError(
            f"{STALENESS_VARIABLE} is {text!r:.40}: expected seconds, {MIN_STALENESS_S:g} to {MAX_STALENESS_S:g}",
            mend=f"unset {STALENESS_VARIABLE}",
        )
    return seconds


def clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system can say."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@attrs.frozen(kw_only=True)
class LeaseHolder:
    """Who holds a lease, as it is stored."""

    nonce: str
    host: str
    machine: str
    """Names the kernel and its process namespace since it was booted: only there does `pid` mean anything."""
    pid: int
    pid_started: str
    started_at: datetime
    heartbeat_at: datetime

    def __str__(self) -> str:
        """For an error or a status line."""
        age_s = (datetime.now(UTC) - self.heartbeat_at).total_seconds()
        since = f"{self.started_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"process {self.pid} on {self.host} (since {since}, seen {age_s:.0f} s ago)"

    @property
    def is_fresh(self) -> bool:
        """Whether it seems to be alive, by its heartbeat and the clocks of both machines."""
        age_s = abs((datetime.now(UTC) - self.heartbeat_at).total_seconds())
        return not self.is_known_dead and age_s <= configured_staleness_s()

    @property
    def is_known_dead(self) -> bool:
        """Whether it ran on this machine and its process is gone. False says nothing."""
        if self.machine != this_machine():
            return False
        if self.pid == os.getpid() and self.pid_started == process_started(os.getpid()):
            return self.nonce not in _held_here
        return process_started(self.pid) != self.pid_started


async def read_holder(storage: Storage, trajectory_id: str) -> LeaseHolder | None:
    """Who holds a trajectory's lease, fresh or stale; None when nobody does, or the lease is unreadable."""
    try:
        return _parse(await storage.get(lease_key(trajectory_id)))
    except KeyMissingError:
        return None


async def is_held(storage: Storage, trajectory_id: str) -> bool:
    """Whether somebody who is alive holds a trajectory's lease."""
    holder = await read_holder(storage, trajectory_id)
    return holder is not None and holder.is_fresh


@attrs.define
class Lease:
    """A lease that is held, and renewed in the background. Made by `Lease.hold`."""

    storage: Storage
    trajectory_id: str
    staleness_s: float
    interval_s: float
    holder: LeaseHolder
    _version: str
    _renewed_at: float = attrs.field(factory=clock)
    _tried_at: float = attrs.field(factory=clock)
    """When a heartbeat was tried last, with or without success."""
    _lost: StorageError | None = None
    _lost_event: anyio.Event = attrs.field(factory=anyio.Event)
    _lock: anyio.Lock = attrs.field(factory=anyio.Lock)

    @classmethod
    @asynccontextmanager
    async def hold(
        cls,
        storage: Storage,
        trajectory_id: str,
        *,
        staleness_s: float | None = None,
        interval_s: float | None = None,
    ) -> AsyncIterator[Lease]:
        """Hold the lease for as long as the context is open.

        Raises:
            UsageError: Another run holds it; the message names it.
            StorageError: The storage can't be reached.
        """
        staleness_s = configured_staleness_s() if staleness_s is None else staleness_s
        interval_s = staleness_s / HEARTBEATS_BEFORE_STALE if interval_s is None else interval_s
        lease = await _acquire(storage, trajectory_id, staleness_s, interval_s)
        try:
            async with background_tasks() as group:
                group.start_soon(lease._renew_forever)
                yield lease
        finally:
            with anyio.move_on_after(RELEASE_TIMEOUT_S, shield=True):
                await lease._release()
            _held_here.discard(lease.holder.nonce)

    @property
    def key(self) -> str:
        """Where it stands in the storage."""
        return lease_key(self.trajectory_id)

    async def ensure_held(self) -> None:
        """Return when the lease is certainly held; renews it first when its last heartbeat is old.

        Raises:
            StorageError: Another run took over; or the heartbeat is old and the storage can't be reached.
        """
        if self._lost is not None:
            raise self._lost
        if clock() - self._renewed_at > self.staleness_s / 2:
            await self._renew()

    async def is_taken_over(self, *, look: bool = False) -> bool:
        """Whether another run took over, as far as can be known: who slept through a heartbeat looks first.

        It never raises: in an outage of the storage nobody can take over either.

        Args:
            look: Look in any case, for something else says so.
        """
        if self._lost is None and (look or clock() - self._tried_at > self.staleness_s / 2):
            with anyio.move_on_after(LOOK_TIMEOUT_S), suppress(StorageError):
                await self._renew()
        return self._lost is not None

    async def wait_lost(self) -> None:
        """Wait until another run takes over, and raise then.

        Raises:
            StorageError: Another run took over.
        """
        await self._lost_event.wait()
        assert self._lost is not None
        raise self._lost

    async def _renew_forever(self) -> None:
        while self._lost is None:
            await anyio.sleep(self.interval_s)
            with suppress(StorageError):  # an outage: whether the lease was lost shows when it is over
                await self._renew()

    async def _renew(self) -> None:
        async with self._lock:
            if self._lost is not None:
                raise self._lost
            self._tried_at = clock()
            holder = attrs.evolve(self.holder, heartbeat_at=datetime.now(UTC))
            began_at = clock()
            try:
                self._version = await _put(self.storage, self.key, holder, AtVersion(self._version))
            except ConditionFailedError:
                self._version = await self._recover(holder)
            self.holder, self._renewed_at = holder, began_at

    async def _recover(self, holder: LeaseHolder) -> str:
        """Find out why the lease is not as it was: a lost answer of the storage, a removed lease, or another run."""
        for _ in range(_ATTEMPTS):
            info = await self.storage.stat(self.key)
            condition: Absent | AtVersion = Absent() if info is None else AtVersion(info.version)
            if info is not None:
                found = await read_holder(self.storage, self.trajectory_id)
                if found is None or found.nonce != holder.nonce:
                    raise self._lose(found)
            with suppress(ConditionFailedError):
                return await _put(self.storage, self.key, holder, condition)
        raise self._lose(None)

    def _lose(self, found: LeaseHolder | None) -> StorageError:
        by = f": {found} has it now" if found is not None else ""
        self._lost = StorageError(
            f"another run took over trajectory {self.trajectory_id}{by}; this one writes no more of it",
            mend=f"envoi-trace status {self.trajectory_id}",
        )
        self._lost_event.set()
        return self._lost

    async def _release(self) -> None:
        if self._lost is not None:
            return
        with suppress(StorageError):  # a lease that stays is stale soon; for this machine at once
            found = await read_holder(self.storage, self.trajectory_id)
            if found is not None and found.nonce == self.holder.nonce:
                # Should another run have taken over just now, it puts its lease back at its next heartbeat.
                await self.storage.delete(self.key)


hold_lease = Lease.hold


async def _acquire(storage: Storage, trajectory_id: str, staleness_s: float, interval_s: float) -> Lease:
    key = lease_key(trajectory_id)
    for _ in range(_ATTEMPTS):
        info = await storage.stat(key)
        condition: Absent | AtVersion = Absent()
        if info is not None:
            holder = await read_holder(storage, trajectory_id)
            if not await _is_stale(storage, key, info.version, holder, staleness_s, interval_s):
                raise _held_by(trajectory_id, holder)
            condition = AtVersion(info.version)
        mine = _new_holder()
        _held_here.add(mine.nonce)  # before anyone can read it, or this process would take it for a leftover
        try:
            version = await _put(storage, key, mine, condition)
        except BaseException as error:
            _held_here.discard(mine.nonce)
            if isinstance(error, ConditionFailedError):
                continue  # someone was faster: look who
            raise
        return Lease(storage, trajectory_id, staleness_s, interval_s, mine, version)
    raise _held_by(trajectory_id, await read_holder(storage, trajectory_id))


async def _is_stale(
    storage: Storage, key: str, version: str, holder: LeaseHolder | None, staleness_s: float, interval_s: float
) -> bool:
    if holder is not None and holder.is_known_dead:
        return True
    watch_s = staleness_s
    if holder is not None:
        age_s = (datetime.now(UTC) - holder.heartbeat_at).total_seconds()
        if -_CLOCK_TOLERANCE_S <= age_s <= staleness_s:
            return False
        if age_s > staleness_s:
            watch_s = min(2 * interval_s, staleness_s)
    for _ in range(_POLLS):
        await anyio.sleep(watch_s / _POLLS)
        info = await storage.stat(key)
        if info is None or info.version != version:
            return info is None
    return True


def _held_by(trajectory_id: str, holder: LeaseHolder | None) -> UsageError:
    who = str(holder) if holder is not None else "another process"
    return UsageError(
        f"trajectory {trajectory_id} is being run by {who}",
        mend=f"envoi-trace logs {trajectory_id} --follow, or end it: envoi-trace stop {trajectory_id}",
    )


async def _put(storage: Storage, key: str, holder: LeaseHolder, condition: Absent | AtVersion) -> str:
    return await storage.put(key, value_to_json(holder).encode(), condition=condition)


def _parse(data: bytes) -> LeaseHolder | None:
    try:
        return value_from_json(data, LeaseHolder)
    except (TypeError, ValueError, KeyError):
        return None


def _new_holder() -> LeaseHolder:
    now = datetime.now(UTC)
    return LeaseHolder(
        nonce=secrets.token_hex(16),
        host=socket.gethostname(),
        machine=this_machine(),
        pid=os.getpid(),
        pid_started=process_started(os.getpid()) or "",
        started_at=now,
        heartbeat_at=now,
    )


@cache
def this_machine() -> str:
    """Names the kernel since its boot and the process namespace, so that pids can be compared."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        import uuid

        return f"{socket.gethostname()}/{uuid.getnode():x}"


def process_started(pid: int) -> str | None:
    """When a process of this machine began, in the system's own words; None when there is none (a zombie is none)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
