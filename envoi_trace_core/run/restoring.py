"""What the storage has of a run, and this machine's folder made of it when the storage knows better."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
from anyio import to_thread

from envoi_trace_core.domain.facts import EventsUnparsed, Fact, PartRecorded, TrajectoryEnded, TurnEnded, UsageRecorded
from envoi_trace_core.errors import StorageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.repo.increments import has_increment, import_increments
from envoi_trace_core.run.stored_log import StoredLog, delete_all, numbered_sizes
from envoi_trace_core.state import state_dir, trajectory_dir
from envoi_trace_core.trace.events import parse_event_line
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import read_journal
from envoi_trace_core.trace.keys import events_path, journal_path, log_path, log_pieces_prefix, resume_prefix
from envoi_trace_core.trace.line_log import is_whole, storage_error

MIRROR = "repo.git"
AGENT_STATE = "agent-state-"


@attrs.define(kw_only=True)
class StoredRun:
    """What a storage has of a run that may go on."""

    storage: Storage
    trajectory_id: str
    journal: StoredLog
    events: StoredLog
    log: StoredLog
    """What the run told; nothing depends on it."""
    bundles: int
    """How many increments of the repository."""

    @classmethod
    async def find(cls, storage: Storage, trajectory_id: str) -> StoredRun:
        """Look what there is.

        Raises:
            StorageError: The storage can't be reached.
        """
        prefix = resume_prefix(trajectory_id)
        return cls(
            storage=storage,
            trajectory_id=trajectory_id,
            journal=await StoredLog.find(storage, f"{prefix}journal/", journal_path(trajectory_id)),
            events=await StoredLog.find(storage, f"{prefix}events/", events_path(trajectory_id)),
            log=await StoredLog.find(storage, log_pieces_prefix(trajectory_id), log_path(trajectory_id)),
            bundles=len(await numbered_sizes(storage, f"{prefix}repository/", "bundle")),
        )

    @property
    def prefix(self) -> str:
        """Of all that only a resume needs."""
        return resume_prefix(self.trajectory_id)

    def bundle_key(self, number: int) -> str:
        """Where an increment of the repository stands; the first is 1."""
        return f"{self.prefix}repository/{number:06d}.bundle"

    def agent_state_key(self, name: str) -> str:
        """Where a session's saved state stands."""
        return f"{self.prefix}agent/{name}"

    async def is_behind_local(self) -> bool:
        """Whether this machine's folder holds all that is stored, and perhaps more."""
        if not (await self.journal.is_behind_local() and await self.events.is_behind_local()):
            return False
        mirror_dir = trajectory_dir(self.trajectory_id) / MIRROR
        return not self.bundles or await to_thread.run_sync(has_increment, mirror_dir, self.bundles)


async def bring_back(storage: Storage, trajectory_id: str, note: Callable[[str], None]) -> StoredRun:
    """Make this machine's folder hold at least what the storage holds. The caller holds the lease.

    Raises:
        StorageError: The storage can't be reached, or what it has is damaged.
    """
    stored = await _bring_back_record(storage, trajectory_id, note)
    if not await stored.log.is_behind_local():
        log = await stored.log.download()
        trajectory_dir(trajectory_id).mkdir(parents=True, exist_ok=True)
        await to_thread.run_sync(stored.log.path.write_bytes, log)
    return stored


async def _bring_back_record(storage: Storage, trajectory_id: str, note: Callable[[str], None]) -> StoredRun:
    stored = await StoredRun.find(storage, trajectory_id)
    if await stored.is_behind_local():
        return stored
    if not stored.journal.sizes_bytes:
        # The first upload was cut off, and this machine knows another beginning: nothing of it was ever told.
        for folder in ("agent/", "repository/", "events/", "log/"):
            await delete_all(storage, f"{stored.prefix}{folder}")
        return await StoredRun.find(storage, trajectory_id)
    note("what is stored of this run is newer than what is on this machine: it is brought here")
    try:
        await to_thread.run_sync(_put_aside, trajectory_id)
        await _rebuild(stored)
    except OSError as error:
        raise storage_error("the run's folder on this machine can't be written", error) from error
    return stored


async def _rebuild(stored: StoredRun) -> None:
    """The journal comes last: without it a folder that was cut off half-way is none."""
    folder = trajectory_dir(stored.trajectory_id)
    folder.mkdir(parents=True, exist_ok=True)
    partial_journal = folder / "journal.partial"
    await to_thread.run_sync(partial_journal.write_bytes, await stored.journal.download())
    facts, _ = await to_thread.run_sync(read_journal, partial_journal)
    events = await stored.events.download()
    kept_bytes = await to_thread.run_sync(_covered_bytes, events, newest_event(facts))
    # What came after the newest fact happened in a workspace that was not stored: it happens again.
    await stored.events.cut(kept_bytes)
    await to_thread.run_sync(stored.events.path.write_bytes, events[:kept_bytes])
    await _rebuild_mirror(stored, folder / MIRROR, TraceState.of(facts).head)
    for info in await stored.storage.list(stored.agent_state_key(AGENT_STATE)):
        name = info.key.rsplit("/", 1)[-1]
        await to_thread.run_sync((folder / name).write_bytes, await stored.storage.get(info.key))
    await to_thread.run_sync(partial_journal.replace, stored.journal.path)


async def _rebuild_mirror(stored: StoredRun, mirror_dir: Path, head: str | None) -> None:
    if head is None:
        return
    if not stored.bundles:
        raise StorageError(f"{stored.storage.uri(stored.prefix)} holds no repository, and its journal names one")
    with TemporaryDirectory(prefix="envoi-trace-") as scratch:
        paths = []
        for number in range(1, stored.bundles + 1):
            paths.append(Path(scratch) / f"{number:06d}.bundle")
            data = await stored.storage.get(stored.bundle_key(number))
            await to_thread.run_sync(paths[-1].write_bytes, data)
        await to_thread.run_sync(partial(import_increments, mirror_dir, paths, head))


def newest_event(facts: Iterable[Fact]) -> int:
    """The index of the newest native event that the journal knows what to make of; 0 for none."""
    return max((_event_of(fact) for fact in facts), default=0)


def events_left_out(facts: Iterable[Fact]) -> list[range]:
    """Indices of the events that an earlier end left behind: they stay in the events log only."""
    left_out: list[range] = []
    newest = 0
    for fact in facts:
        index = _event_of(fact)
        if isinstance(fact, TrajectoryEnded) and index > newest:
            left_out.append(range(newest + 1, index + 1))
        newest = max(newest, index)
    return left_out


def _event_of(fact: Fact) -> int:
    match fact:
        case PartRecorded(part=part):
            return part.event_index
        case UsageRecorded() | EventsUnparsed() | TurnEnded():
            return fact.event_index
        case TrajectoryEnded(total_events=count):
            return count
        case _:
            return 0


def _covered_bytes(log: bytes, newest: int) -> int:
    """Where the line of the event of that index ends."""
    end = position = 0
    for line in log.splitlines(keepends=True):
        position += len(line)
        stored = parse_event_line(line.rstrip(b"\n")) if is_whole(line.rstrip(b"\n")) else None
        if stored is not None and stored.event.index > newest:
            break
        end = position
    return end


def _put_aside(trajectory_id: str) -> None:
    """Keep what this machine had: it may hold the end of a run that went on elsewhere without it."""
    folder = trajectory_dir(trajectory_id)
    if folder.is_dir():
        aside = state_dir() / "replaced" / f"{trajectory_id}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(aside)
