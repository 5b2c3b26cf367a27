"""`envoi-trace upload ID`: store what a run could not store at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from envoi_trace_core.cli.output import out
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, run_async

if TYPE_CHECKING:
    from envoi_trace_core.trace.fold import TraceState


def upload(
    trajectory: Annotated[str, typer.Argument(help="An id, or a unique prefix of one.", metavar="ID")],
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
) -> None:
    """Upload the artifacts of a run that ended while its storage could not be reached."""
    words = StorageWords.of(storage, storage_opt)
    state, uri = run_async(lambda: _upload(trajectory, words))
    out(f"{state.part_count} parts: {uri}")


async def _upload(word: str, words: StorageWords) -> tuple[TraceState, str]:
    from envoi_trace_core.run.upload import upload_trajectory
    from envoi_trace_core.trace.keys import trace_key
    from envoi_trace_core.trace.lookup import resolve_id

    async with words.open() as storage:
        trajectory_id = await resolve_id(storage, word)
        return await upload_trajectory(storage, trajectory_id), storage.uri(trace_key(trajectory_id))
