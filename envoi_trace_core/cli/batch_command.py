"""`envoi-trace batch PLAN.toml`: many trajectories at once, from a matrix; the same command goes on with the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.cli.signature import takes_run_options
from envoi_trace_core.errors import UsageError


@takes_run_options
def batch(
    plan: Annotated[Path, typer.Argument(help="What to run, a TOML file.", metavar="PLAN")],
    options: RunOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would run, and start nothing.")] = False,
) -> None:
    """Run a matrix of agents, models, tasks and environments; again, it goes on with what is left.

    Options that are given go over those of the plan. Exit status: 0 when all trials ended by themselves, else the
    first of these: 130 interrupted, 5 infrastructure, 4 the environment, 3 the agent, 1 a trial that could not be
    run or that another process runs, or artifacts that could not be stored (2 when no trial could be run), 6 a
    trial below --fail-under.
    """
    from envoi_trace_core.cli.batch_dry_run import list_batch
    from envoi_trace_core.cli.batch_run import as_batch, run_batch
    from envoi_trace_core.plugins import Plugins

    if options.trajectory_id is not None:
        raise UsageError("--trajectory-id names one trajectory, and a batch has many", mend="--batch NAME names them")
    made = as_batch(plan, options, Plugins.load())
    if dry_run:
        raise typer.Exit(list_batch(made, options, source=str(plan)))
    raise typer.Exit(run_batch(made, options, again="the same command", source=str(plan)))
