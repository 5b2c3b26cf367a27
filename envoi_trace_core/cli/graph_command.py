"""`envoi-trace graph`: the repository as it was at a part."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from envoi_trace_core.cli.output import out
from envoi_trace_core.cli.reading import (
    BUNDLE_FILE,
    StorageName,
    StorageOpts,
    StorageWords,
    TrajectoryWord,
    find_trace,
    row_of_part,
    run_async,
    save_bundle,
)
from envoi_trace_core.errors import UsageError


def graph(
    trajectory: TrajectoryWord,
    part: Annotated[int | None, typer.Option(help="Which part.", metavar="N")] = None,
    checkout_dest: Annotated[
        Path | None, typer.Option(help="Folder for the repository at that part; empty or new.", metavar="DIR")
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
) -> None:
    """Write the repository as it was right after a part."""
    if part is None or checkout_dest is None:
        missing = "--part" if part is None else "--checkout-dest"
        raise UsageError(f"{missing} is missing", mend=f"envoi-trace graph {trajectory} --part N --checkout-dest DIR")
    _refuse_full(checkout_dest)
    words = StorageWords.of(storage, storage_opt)
    number, destination = part, checkout_dest
    commit = run_async(lambda: _check_out(trajectory, number, destination, words))
    out(f"part {part} [{commit[:8]}] in {checkout_dest}")


def _refuse_full(destination: Path) -> None:
    """Before anything is fetched; the checkout looks again."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        why = "is not empty" if destination.is_dir() else "is no folder"
        raise UsageError(f"--checkout-dest {destination} {why}", mend="name a new or empty folder")


async def _check_out(word: str, part: int, destination: Path, storage: StorageWords) -> str:
    from envoi_trace_core.analysis.replay import checkout_part

    trace = await find_trace(word, storage)
    commit = row_of_part(trace, part).part.git_commit
    if commit is None:
        raise UsageError(f"part {part} has no commit: the workspace was not recorded then", mend="choose a later part")
    with tempfile.TemporaryDirectory(prefix="envoi-trace-graph-") as scratch:
        bundle = Path(scratch) / BUNDLE_FILE
        await save_bundle(word, trace.trajectory.trajectory_id, storage, bundle)
        checkout_part(bundle, commit, destination)
    return commit
