"""`envoi-trace import`: native events that were recorded elsewhere, or an exported trace, into a storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from envoi_trace_core.cli.output import out
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, run_async

JSONL = "jsonl"


def import_(
    file: Annotated[str, typer.Argument(help="Native events, or an exported trace, one a line.", metavar="FILE")],
    event_format: Annotated[
        str, typer.Option("--format", help="Which part parser reads them; jsonl for what export wrote.", metavar="NAME")
    ],
    trajectory_id: Annotated[
        str | None,
        typer.Option(
            help="Under which id; by default a new one, or the exported trace's own.", metavar="ID", show_default=False
        ),
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
) -> None:
    """Make a trace of native events that were recorded elsewhere (a Codex rollout, say), or of an exported trace."""
    from envoi_trace_core.ids import check_trajectory_id, new_trajectory_id
    from envoi_trace_core.plugins import Plugins
    from envoi_trace_core.run.importing import import_events, import_trace
    from envoi_trace_core.trace.keys import trace_key

    if trajectory_id is not None:
        check_trajectory_id(trajectory_id)
    if event_format == JSONL:

        async def bring_back() -> None:
            async with StorageWords.of(storage, storage_opt).open() as opened:
                snapshot = await import_trace(Path(file), trajectory_id=trajectory_id, storage=opened)
                found = snapshot.trajectory.trajectory_id
                out(f"TRAJECTORY_ID: {found}")
                out(f"trace:  {opened.uri(trace_key(found))}")
                out(f"{snapshot.summary.parts} parts; the repository and the native events are not part of an export")

        run_async(bring_back)
        return
    spec = Plugins.load().part_parser(event_format)
    chosen = trajectory_id or new_trajectory_id()

    async def work() -> None:
        async with StorageWords.of(storage, storage_opt).open() as opened:
            state = await import_events(
                Path(file), event_format=event_format, parser=spec.create(), trajectory_id=chosen, storage=opened
            )
            out(f"TRAJECTORY_ID: {chosen}")
            out(f"trace:  {opened.uri(trace_key(chosen))}")
            out(f"{state.part_count} parts, {state.unparsed_events} events that were not understood")

    run_async(work)
