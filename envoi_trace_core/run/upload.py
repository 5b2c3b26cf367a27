"""What only this machine has of a run that has ended: into the storage, after an outage."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from anyio import to_thread

from envoi_trace_core.errors import KeyMissingError, TraceFormatError, UsageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.repo.archives import write_bundle
from envoi_trace_core.repo.git import Git
from envoi_trace_core.run.restoring import MIRROR
from envoi_trace_core.state import trajectory_dir
from envoi_trace_core.trace.encode import TraceEncoder
from envoi_trace_core.trace.events import compress_events
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import read_journal
from envoi_trace_core.trace.keys import bundle_key, events_key, events_path, journal_path, trace_key
from envoi_trace_core.trace.lease import Lease
from envoi_trace_core.trace.reader import read_header


async def upload_trajectory(storage: Storage, trajectory_id: str) -> TraceState:
    """Store the native events, the repository and the trace, as this machine's journal has them.

    Raises:
        UsageError: There is nothing here, the storage has more than that, or a run holds the trajectory.
        StorageError: It could not be stored.
    """
    facts, _ = await to_thread.run_sync(read_journal, journal_path(trajectory_id))
    state = TraceState.of(facts)
    if state.trajectory is None:
        raise UsageError(
            f"this machine has nothing of trajectory {trajectory_id}",
            mend="run this where the trajectory ran, with the same ENVOI_TRACE_STATE_DIR",
        )
    async with Lease.hold(storage, trajectory_id) as lease:
        await _refuse_older(storage, trajectory_id, len(facts))
        with TemporaryDirectory(prefix="envoi-trace-") as scratch:
            events, bundle = Path(scratch) / "events.jsonl.zst", Path(scratch) / "repo.bundle"
            await to_thread.run_sync(compress_events, events_path(trajectory_id), events)
            await storage.put(events_key(trajectory_id), events)
            if state.head is not None:
                git = Git(directory=trajectory_dir(trajectory_id) / MIRROR)
                await to_thread.run_sync(partial(write_bundle, git, bundle, since=None))
                await storage.put(bundle_key(trajectory_id), bundle)
        data = await to_thread.run_sync(TraceEncoder().encode, state.snapshot())
        await lease.ensure_held()
        await storage.put(trace_key(trajectory_id), data)
    return state


async def _refuse_older(storage: Storage, trajectory_id: str, facts: int) -> None:
    try:
        header = await read_header(storage, trace_key(trajectory_id))
    except (KeyMissingError, TraceFormatError):
        return
    if header.summary.facts > facts:
        raise UsageError(
            f"{storage.uri(trace_key(trajectory_id))} is newer than what is on this machine: the run went on elsewhere",
            mend=f"envoi-trace show {trajectory_id}",
        )
