"""`envoi-trace logs ID`: what a run told, wherever it runs or ran."""

from __future__ import annotations

from typing import Annotated

import typer

from envoi_trace_core.cli.output import flush, note, out, printable_line
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, run_async


def logs(
    trajectory: Annotated[str, typer.Argument(help="An id, or a unique prefix of one.", metavar="ID")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
) -> None:
    """Print what a run told while it went on, one line with its time (UTC) each."""
    words = StorageWords.of(storage, storage_opt)
    run_async(lambda: _print(trajectory, words, follow=follow))


async def _print(word: str, words: StorageWords, *, follow: bool) -> None:
    from envoi_trace_core.run.reading_log import read_log
    from envoi_trace_core.trace.lookup import resolve_id

    async with words.open() as storage:
        trajectory_id = await resolve_id(storage, word)
        is_empty = True
        async for line in read_log(storage, trajectory_id, follow=follow):
            is_empty = False
            out(printable_line(line))
            if follow:
                flush()
        if is_empty:
            note(f"trajectory {trajectory_id} has no log (yet)")
