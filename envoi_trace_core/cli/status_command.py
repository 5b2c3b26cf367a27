"""`envoi-trace status ID`: who runs a trajectory, and how far it is, from any terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from envoi_trace_core.cli.output import out_fields, out_json
from envoi_trace_core.cli.reading import AsJson, StorageName, StorageOpts, StorageWords, run_async

if TYPE_CHECKING:
    from envoi_trace_core.trace.lease import LeaseHolder
    from envoi_trace_core.trace.reader import Trace


def status(
    trajectory: Annotated[str, typer.Argument(help="An id, or a unique prefix of one.", metavar="ID")],
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
    json: AsJson = False,
) -> None:
    """Say whether a trajectory is being run, by whom, and how far it is."""
    words = StorageWords.of(storage, storage_opt)
    trace, holder = run_async(lambda: _read(trajectory, words))
    state = _state(trace, holder)
    summary, end = trace.summary, trace.end
    if json:
        out_json(
            {
                "trajectory_id": trace.trajectory.trajectory_id,
                "state": state,
                "holder": None if holder is None else {"host": holder.host, "pid": holder.pid},
                "parts": summary.parts,
                "turns": summary.turns,
                "solved_paths": summary.solved_paths,
                "total_paths": summary.total_paths,
                "reason": None if end is None else end.reason,
                "message": None if end is None else end.message,
            }
        )
        return
    out_fields(
        (
            ("trajectory", trace.trajectory.trajectory_id),
            ("state", state),
            ("held by", None if holder is None else str(holder)),
            ("parts", f"{summary.parts} in {summary.turns} turns"),
            ("tests", f"{summary.solved_paths} of {summary.total_paths} test paths solved"),
            ("reason", None if end is None else end.reason),
            ("message", None if end is None else end.message),
        )
    )


async def _read(word: str, words: StorageWords) -> tuple[Trace, LeaseHolder | None]:
    from envoi_trace_core.trace.lease import read_holder
    from envoi_trace_core.trace.lookup import read_trajectory, resolve_id

    async with words.open() as storage:
        trajectory_id = await resolve_id(storage, word)
        return await read_trajectory(storage, trajectory_id), await read_holder(storage, trajectory_id)


def _state(trace: Trace, holder: LeaseHolder | None) -> str:
    if holder is None:
        return "ended" if trace.end is not None else "died"
    return "running" if holder.is_fresh else "died"
