"""`envoi-trace import`: native events that were recorded elsewhere, into a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from envoi_trace_core.cli.output import out
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, run_async


def import_(
    file: Annotated[str, typer.Argument(help="Native events, one a line.", metavar="FILE")],
    event_format: Annotated[str, typer.Option("--format", help="Which part parser reads them.", metavar="NAME")],
    trajectory_id: Annotated[
        str | None, typer.Option(help="Under which id; a new one by default.", metavar="ID", show_default=False)
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
) -> None:
    """Make a trace of native events that were recorded elsewhere: a Codex rollout file, say."""
    from envoi_trace_core.ids import check_trajectory_id, new_trajectory_id
    from envoi_trace_core.plugins import Plugins
    from envoi_trace_core.run.importing import import_events
    from envoi_trace_core.trace.keys import trace_key

    spec = Plugins.load().part_parser(event_format)
    chosen = new_trajectory_id() if trajectory_id is None else check_trajectory_id(trajectory_id)

    async def work() -> None:
        async with StorageWords.of(storage, storage_opt).open() as opened:
            state = await import_events(
                Path(file), event_format=event_format, parser=spec.create(), trajectory_id=chosen, storage=opened
            )
            out(f"TRAJECTORY_ID: {chosen}")
            out(f"trace:  {opened.uri(trace_key(chosen))}")
            out(f"{state.part_count} parts, {state.unparsed_events} events that were not understood")

    run_async(work)
