"""`envoi-trace --trials N`: several equal trajectories, a batch of one cell."""

from __future__ import annotations

from pathlib import Path

from envoi_trace_core.cli.batch_run import CONCURRENCY, RETRIES, run_batch
from envoi_trace_core.cli.run_config import check_task_and_env, config_of, storage_name
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.errors import UsageError
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.batch.cells import Batch, Cell, cell_name, check_batch_name, new_batch_name


def run_trials(options: RunOptions) -> int:
    """Run them; gives the exit status.

    Raises:
        UsageError: It can't be run like that; nothing was started.
    """
    if options.trajectory_id is not None:
        raise UsageError(
            "--trajectory-id names one trajectory, and each trial is one of its own", mend="--batch NAME names them all"
        )
    check_task_and_env(options)
    name = check_batch_name(options.batch) if options.batch is not None else new_batch_name()
    plugins = Plugins.load()
    cell = one_cell(options, storage_name(options, plugins))
    batch = Batch(
        name=name,
        cells=[cell],
        trials=options.trials or 1,
        concurrency=options.concurrency or CONCURRENCY,
        retries=RETRIES if options.retries is None else options.retries,
        max_total_cost_usd=options.max_total_cost_usd,
    )
    return run_batch(batch, options, again=f"the same command with --batch {name}")


def one_cell(options: RunOptions, storage: str) -> Cell:
    """The cell that run mode's options describe."""
    config = config_of(options, trajectory_id="", storage=storage)
    words = [config.agent, config.model, Path(config.task).name, Path(config.environment).name]
    return Cell(name=cell_name([word for word in words if word]), config=config)
