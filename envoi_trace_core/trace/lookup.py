"""From ids, prefixes and storages to traces; a journal on this machine that is ahead of the storage goes first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.errors import EnvoiTraceError, KeyMissingError, StorageError, TraceFormatError, UsageError
from envoi_trace_core.ids import MAX_ID_CHARS, check_trajectory_id
from envoi_trace_core.protocols import Storage
from envoi_trace_core.state import state_dir
from envoi_trace_core.suggest import did_you_mean
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import read_journal
from envoi_trace_core.trace.keys import TRAJECTORIES, journal_path, resume_prefix, trace_key
from envoi_trace_core.trace.reader import Trace, TraceHeader, read_header, read_trace, trace_of_snapshot

READS_AT_ONCE = 16
_SHOWN_CANDIDATES = 5


@attrs.frozen(kw_only=True)
class ListedTrace:
    """One trajectory of a listing: its header, or why it can't be read."""

    trajectory_id: str
    header: TraceHeader | None
    error: EnvoiTraceError | None = None


async def list_traces(storage: Storage, *, reads_at_once: int = READS_AT_ONCE) -> Sequence[ListedTrace]:
    """Every trajectory of the storage, sorted by id. Reads footers only, several at once.

    A run that was killed, or lost its storage, before its first snapshot has no trace: what its journal says is
    listed, be it on this machine or stored for a resume. Journals of this machine that are of no run of this storage
    are not: they belong to another one.

    Raises:
        StorageError: The storage can't be listed.
    """
    limiter = anyio.CapacityLimiter(reads_at_once)
    listed: dict[str, ListedTrace] = {}

    async def read(trajectory_id: str, size_bytes: int | None) -> None:
        async with limiter:
            header, error = None, None
            try:
                if size_bytes is not None:
                    header = await read_header(storage, trace_key(trajectory_id), size_bytes=size_bytes)
            except KeyMissingError:
                return  # removed since the storage was listed
            except EnvoiTraceError as failure:
                error = failure
            if header is None:
                found = await _read_journals(storage, trajectory_id)
                header = found.header if found is not None else None
            if header is not None or error is not None:
                listed[trajectory_id] = ListedTrace(
                    trajectory_id=trajectory_id, header=header, error=error if header is None else None
                )

    sizes: dict[str, int | None] = {}
    for info in await storage.list(TRAJECTORIES):
        trajectory_id = _id_of(info.key)
        sizes.setdefault(trajectory_id, None)
        if info.key == trace_key(trajectory_id):
            sizes[trajectory_id] = info.size_bytes
    async with anyio.create_task_group() as group:
        for trajectory_id, size_bytes in sizes.items():
            group.start_soon(read, trajectory_id, size_bytes)
    return [listed[trajectory_id] for trajectory_id in sorted(listed)]


async def read_trajectory(storage: Storage, trajectory_id: str) -> Trace:
    """Read a trajectory: from this machine's journal when it knows more than the storage, else from the storage.

    Without a trace there, from the journal that is stored for a resume.

    Raises:
        UsageError: There is no such trajectory.
        TraceFormatError: Neither can be read as a trace.
    """
    check_trajectory_id(trajectory_id)
    local = await anyio.to_thread.run_sync(_read_local, trajectory_id)
    failure: EnvoiTraceError | None = None
    stored: Trace | None = None
    key = trace_key(trajectory_id)
    try:
        if local is None or await _stored_facts(storage, key) > local.summary.facts + len(local.damage):
            stored = read_trace(await storage.get(key), name=storage.uri(key))
    except KeyMissingError:
        failure = UsageError(f"there is no trajectory {trajectory_id!r}", mend="envoi-trace list shows the ids")
    except (TraceFormatError, StorageError) as error:
        failure = error
    found = stored or local
    if found is None and isinstance(failure, UsageError):
        found = await _read_stored_journal(storage, trajectory_id)
    if found is not None:
        return found
    assert failure is not None
    raise failure


async def resolve_id(storage: Storage, prefix: str) -> str:
    """The one trajectory whose id is, or begins with, `prefix`; in the storage, or with a journal on this machine.

    Raises:
        UsageError: There is none, or there are several.
    """
    if not prefix:
        raise UsageError("an empty word names no trajectory", mend="envoi-trace list shows the ids")
    ids: set[str] = set()
    if len(prefix) <= MAX_ID_CHARS and "/" not in prefix and not prefix.startswith("."):
        ids = {_id_of(info.key) for info in await storage.list(f"{TRAJECTORIES}{prefix}")}
        ids |= {found for found in await anyio.to_thread.run_sync(_local_ids) if found.startswith(prefix)}
    if prefix in ids:
        return prefix
    if len(ids) == 1:
        return ids.pop()
    if ids:
        shown = ", ".join(sorted(ids)[:_SHOWN_CANDIDATES])
        more = f" and {len(ids) - _SHOWN_CANDIDATES} more" if len(ids) > _SHOWN_CANDIDATES else ""
        raise UsageError(f"{len(ids)} trajectories begin with {prefix!r}: {shown}{more}", mend="give more of the id")
    known = {_id_of(info.key) for info in await storage.list(TRAJECTORIES)}
    raise UsageError(
        f"unknown trajectory {prefix!r:.140} in {storage.uri(TRAJECTORIES.rstrip('/'))}.{did_you_mean(prefix, known)}",
        mend="envoi-trace list shows the ids",
    )


async def _stored_facts(storage: Storage, key: str) -> int:
    return (await read_header(storage, key)).summary.facts


async def _read_journals(storage: Storage, trajectory_id: str) -> Trace | None:
    """What a trajectory without a trace left: on this machine, or in the storage for a resume."""
    local = await anyio.to_thread.run_sync(_read_local, trajectory_id)
    return local if local is not None else await _read_stored_journal(storage, trajectory_id)


async def _read_stored_journal(storage: Storage, trajectory_id: str) -> Trace | None:
    try:
        infos = await storage.list(f"{resume_prefix(trajectory_id)}journal/")
        if not infos:
            return None
        data = b"".join([await storage.get(info.key) for info in infos])
    except StorageError:
        return None

    def read() -> Trace | None:
        with TemporaryDirectory(prefix="envoi-trace-") as folder:
            path = Path(folder) / "journal.jsonl"
            path.write_bytes(data)
            return _read_journal(path)

    return await anyio.to_thread.run_sync(read)


def _read_local(trajectory_id: str) -> Trace | None:
    return _read_journal(journal_path(trajectory_id))


def _read_journal(path: Path) -> Trace | None:
    try:
        facts, damage = read_journal(path)
    except StorageError:
        return None
    state = TraceState.of(facts)
    if state.trajectory is None:
        return None
    return trace_of_snapshot(state.snapshot(), state.rows, damage)


def _local_ids() -> set[str]:
    folder = state_dir() / "trajectories"
    return {path.parent.name for path in folder.glob("*/journal.jsonl")}


def _id_of(key: str) -> str:
    return key.removeprefix(TRAJECTORIES).partition("/")[0]
