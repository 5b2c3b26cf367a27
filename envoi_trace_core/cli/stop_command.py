"""`envoi-trace stop ID`: end a run from any terminal, as Ctrl-C would in its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from envoi_trace_core.cli.output import out
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, run_async
from envoi_trace_core.errors import StorageError, UsageError

if TYPE_CHECKING:
    from envoi_trace_core.run.stopping import Stopped

DEFAULT_TIMEOUT_S = 420.0
"""Longer than a run may take to save itself."""


def stop(
    trajectory: Annotated[str, typer.Argument(help="An id, or a unique prefix of one.", metavar="ID")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its end.", metavar="S", min=1)] = (
        DEFAULT_TIMEOUT_S
    ),
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
) -> None:
    """End a run: its trace is saved and its sandboxes are closed, wherever it runs."""
    words = StorageWords.of(storage, storage_opt)
    trajectory_id, how = run_async(lambda: _stop(trajectory, words, timeout))
    match how:
        case "stopped":
            out(f"stopped {trajectory_id}; it goes on with: envoi-trace resume {trajectory_id}")
        case "was not running":
            raise UsageError(
                f"nobody runs trajectory {trajectory_id}", mend=f"envoi-trace status {trajectory_id} says how it ended"
            )
        case "still saving":
            raise StorageError(
                f"{trajectory_id} is ending, and took longer than {timeout:g} s so far",
                mend=f"envoi-trace logs {trajectory_id} --follow",
            )
        case "did not answer":
            raise StorageError(
                f"the run of {trajectory_id} did not take the request in {timeout:g} s: it hangs, or can't reach the "
                "storage",
                mend=f"envoi-trace status {trajectory_id} names its process",
            )


async def _stop(word: str, words: StorageWords, timeout_s: float) -> tuple[str, Stopped]:
    from envoi_trace_core.run.stopping import stop_run
    from envoi_trace_core.trace.lookup import resolve_id

    async with words.open() as storage:
        trajectory_id = await resolve_id(storage, word)
        return trajectory_id, await stop_run(storage, trajectory_id, timeout_s=timeout_s)
