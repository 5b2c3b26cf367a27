"""What a storage has of a batch. That is the only record of it: whoever reads it knows what is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
import attrs

from envoi_trace_core.errors import EnvoiTraceError, KeyMissingError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.run.batch.cells import Batch, Trial
from envoi_trace_core.run.batch.results import Attempt
from envoi_trace_core.run.outcome import EXIT_STATUS
from envoi_trace_core.run.restart_mark import waits_for_restart
from envoi_trace_core.trace.keys import TRAJECTORIES, trace_key
from envoi_trace_core.trace.reader import TraceHeader, read_header

READS_AT_ONCE = 16
_MAX_MESSAGE_CHARS = 300


@attrs.frozen(kw_only=True)
class StoredBatch:
    """The trajectories of a batch that exist."""

    attempts: Mapping[str, Sequence[Attempt]] = attrs.field(factory=dict)
    """By the id of the trial's first one, in order; one without a trace yet has no reason and no parts."""
    errors: Mapping[str, EnvoiTraceError] = attrs.field(factory=dict)
    """By trajectory id, why its trace can't be read."""

    @classmethod
    async def find(cls, storage: Storage, batch: Batch) -> StoredBatch:
        """Look what there is; of the traces only their footers are read.

        Raises:
            StorageError: The storage can't be listed.
        """
        sizes: dict[str, int] = {}
        ids: set[str] = set()
        for info in await storage.list(f"{TRAJECTORIES}{batch.prefix}"):
            trajectory_id = info.key.removeprefix(TRAJECTORIES).partition("/")[0]
            ids.add(trajectory_id)
            if info.key == trace_key(trajectory_id):
                sizes[trajectory_id] = info.size_bytes
        attempts = {name: Attempt(trajectory_id=name, number=attempt_number(name), reason=None) for name in ids}
        errors: dict[str, EnvoiTraceError] = {}
        limiter = anyio.CapacityLimiter(READS_AT_ONCE)

        async def read(trajectory_id: str, size_bytes: int) -> None:
            async with limiter:
                try:
                    header = await read_header(storage, trace_key(trajectory_id), size_bytes=size_bytes)
                    attempts[trajectory_id] = await _attempt(storage, trajectory_id, header)
                except KeyMissingError:
                    pass  # removed since the storage was listed
                except EnvoiTraceError as error:
                    errors[trajectory_id] = error

        async with anyio.create_task_group() as group:
            for trajectory_id, size_bytes in sizes.items():
                group.start_soon(read, trajectory_id, size_bytes)
        trials: dict[str, list[Attempt]] = {}
        for attempt in sorted(attempts.values(), key=lambda attempt: attempt.number):
            trials.setdefault(_first_id(attempt), []).append(attempt)
        return cls(attempts=trials, errors=errors)

    def of(self, batch: Batch, trial: Trial) -> Sequence[Attempt]:
        """The attempts at a trial, in order."""
        return self.attempts.get(batch.trajectory_id(trial, 1), ())


async def read_attempt(storage: Storage, trajectory_id: str) -> Attempt | None:
    """One trajectory as it stands now; None when it has no trace, or none that can be read."""
    try:
        return await _attempt(storage, trajectory_id, await read_header(storage, trace_key(trajectory_id)))
    except EnvoiTraceError:
        return None


def attempt_number(trajectory_id: str) -> int:
    """Which attempt an id is of."""
    _, separator, number = trajectory_id.rpartition(".a")
    return int(number) if separator and number.isdecimal() else 1


def _first_id(attempt: Attempt) -> str:
    return attempt.trajectory_id.removesuffix(f".a{attempt.number}") if attempt.number > 1 else attempt.trajectory_id


async def _attempt(storage: Storage, trajectory_id: str, header: TraceHeader) -> Attempt:
    """Only what a table needs: a header holds every test path, and there may be many headers."""
    summary, end = header.summary, header.end
    if end is not None and end.reason in EXIT_STATUS and await waits_for_restart(storage, trajectory_id, end.at):
        end = None
    is_solved = summary.solved_commit is not None
    return Attempt(
        trajectory_id=trajectory_id,
        number=attempt_number(trajectory_id),
        reason=end.reason if end is not None else None,
        message=end.message[:_MAX_MESSAGE_CHARS] if end is not None and end.message else None,
        parts=summary.parts,
        turns=summary.turns,
        solved_paths=summary.total_paths if is_solved else summary.solved_paths,
        total_paths=summary.total_paths,
        best_share=summary.best_share,
        cost_usd=summary.cost_usd,
    )
