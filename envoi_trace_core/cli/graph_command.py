"""`envoi-trace graph`: charts and a report of a trajectory, or the repository as it was at a part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envoi_trace_core.cli.files import file_word, image_format_of, output_folder, write_files
from envoi_trace_core.cli.output import note, out, out_json, printable
from envoi_trace_core.cli.reading import (
    AsJson,
    StorageName,
    StorageOpts,
    StorageWords,
    TrajectoryWord,
    find_trace,
    row_of_part,
    run_async,
)
from envoi_trace_core.errors import UsageError

if TYPE_CHECKING:
    from envoi_trace_core.trace.reader import Trace


def graph(
    trajectory: TrajectoryWord,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the charts; graph-ID by default.", metavar="DIR")
    ] = None,
    image_format: Annotated[str, typer.Option("--format", help="Of the charts: png or svg.", metavar="NAME")] = "png",
    part: Annotated[
        int | None, typer.Option(help="Write the repository as it was right after this part.", metavar="N")
    ] = None,
    checkout_dest: Annotated[
        Path | None, typer.Option(help="Folder for the repository at that part; empty or new.", metavar="DIR")
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
    json: AsJson = False,
) -> None:
    """Draw the passed tests by part and by time, and write a report; or, with --part, the repository at a part."""
    words = StorageWords.of(storage, storage_opt)
    if part is None and checkout_dest is None:
        _draw(trajectory, output, image_format, words, as_json=json)
        return
    if part is None or checkout_dest is None:
        missing = "--part" if part is None else "--checkout-dest"
        raise UsageError(f"{missing} is missing", mend=f"envoi-trace graph {trajectory} --part N --checkout-dest DIR")
    if output is not None:
        raise UsageError("--output is for charts, and --part writes none", mend="use --checkout-dest alone")
    _refuse_full(checkout_dest)
    number, destination = part, checkout_dest
    commit = run_async(lambda: _check_out(trajectory, number, destination, words))
    if json:
        out_json({"part": part, "git_commit": commit, "directory": str(checkout_dest)})
    else:
        out(f"part {part} [{commit[:8]}] in {checkout_dest}")


def _draw(word: str, output: Path | None, image_format: str, words: StorageWords, *, as_json: bool) -> None:
    chosen = image_format_of(image_format)
    if output is not None:
        output_folder(output)  # before anything is fetched
    trace = run_async(lambda: find_trace(word, words))
    folder = output_folder(output or Path("graph-" + file_word(trace.trajectory.trajectory_id)))

    from envoi_trace_core.analysis.charts import trajectory_charts
    from envoi_trace_core.analysis.curves import progress_of
    from envoi_trace_core.analysis.graph_data import graph_data_bytes
    from envoi_trace_core.analysis.report import report_bytes

    progress = progress_of(trace)
    files = trajectory_charts(trace, progress, chosen)
    files["graph_data.json"] = graph_data_bytes(trace, progress)
    files["report.html"] = report_bytes(trace, progress)
    paths = write_files(folder, files)
    if as_json:
        out_json({"trajectory_id": trace.trajectory.trajectory_id, "files": [str(path) for path in paths]})
        return
    _say_what_is_missing(trace)
    for path in paths:
        out(printable(str(path)))


def _say_what_is_missing(trace: Trace) -> None:
    if not trace.rows:
        note("the trajectory has no part: its charts say so")
    elif trace.end is None:
        note(f"the trajectory has not ended: the charts go up to part {trace.rows[-1].part.part}")


def _refuse_full(destination: Path) -> None:
    """Before anything is fetched; the checkout looks again."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        why = "is not empty" if destination.is_dir() else "is no folder"
        raise UsageError(f"--checkout-dest {destination} {why}", mend="name a new or empty folder")


async def _check_out(word: str, part: int, destination: Path, storage: StorageWords) -> str:
    from envoi_trace_core.cli.repositories import check_out

    trace = await find_trace(word, storage)
    commit = row_of_part(trace, part).part.git_commit
    if commit is None:
        raise UsageError(f"part {part} has no commit: the workspace was not recorded then", mend="choose a later part")
    await check_out(word, trace.trajectory.trajectory_id, commit, destination, storage)
    return commit
