"""Runs a batch from the command line: checks all of it, shows it, and tells its end."""

from __future__ import annotations

import json
from pathlib import Path

import anyio

from envoi_trace_core.builtin.local_launcher import LocalLauncher
from envoi_trace_core.cli.batch_display import BatchDisplay
from envoi_trace_core.cli.batch_plan import read_plan
from envoi_trace_core.cli.batch_report import report, summary
from envoi_trace_core.cli.launcher_choice import choose_launcher
from envoi_trace_core.cli.output import note, out
from envoi_trace_core.cli.run_config import config_of, storage_name
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.cli.signals import stop_on_signal
from envoi_trace_core.cli.storage_choice import choose_storage
from envoi_trace_core.errors import UsageError
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.protocols import Launcher
from envoi_trace_core.run.batch.cells import Batch, Cell, cell_name, check_batch_name
from envoi_trace_core.run.batch.check import check_batch
from envoi_trace_core.run.batch.limits import allow_open_files
from envoi_trace_core.run.batch.results import BatchResult
from envoi_trace_core.run.batch.running import BatchRun, BatchStop

CONCURRENCY = 4
RETRIES = 2


def as_batch(path: Path, options: RunOptions, plugins: Plugins) -> Batch:
    """The batch that a plan describes, with the command line's options over it.

    Raises:
        UsageError: The plan can't be read, or something in it is wrong.
    """
    plan = read_plan(path, options, plugins)
    storage = storage_name(plan.cells[0].options, plugins)
    cells = [
        Cell(name=cell_name(cell.words), config=config_of(cell.options, trajectory_id="", storage=storage))
        for cell in plan.cells
    ]
    return Batch(
        name=check_batch_name(options.batch or plan.name),
        cells=cells,
        trials=_first(options.trials, plan.trials, 1),
        concurrency=_first(options.concurrency, plan.concurrency, CONCURRENCY),
        retries=_first(options.retries, plan.retries, RETRIES),
        max_total_cost_usd=_first(options.max_total_cost_usd, plan.max_total_cost_usd, None),
    )


def _first[T](given: T | None, planned: T | None, default: T) -> T:
    """What stands on the command line goes over the plan."""
    return given if given is not None else planned if planned is not None else default


def run_batch(batch: Batch, options: RunOptions, *, again: str, source: str | None = None) -> int:
    """Run what is left of a batch; gives the exit status.

    Args:
        batch: What to run.
        options: The command line's: launcher, output, `--fail-under`.
        again: What the user does to go on with what is left.
        source: The file that the batch was read from, for errors.

    Raises:
        UsageError: It can't be run like that; nothing was started.
    """
    plugins = Plugins.load()
    launcher = choose_launcher(plugins, options)
    _check_detach(batch, launcher, detach=options.detach)
    check_batch(batch, plugins, source=source)
    display = BatchDisplay(batch=batch, json=options.json, quiet=options.quiet)
    allow_open_files(batch.concurrency)
    display.begin()
    result = anyio.run(_run, batch, launcher, plugins, display, options.detach)
    status = result.exit_status(fail_under=options.fail_under)
    if options.json:
        out(json.dumps(summary(result, batch, status)))
    report(result, display.progress, again=again, say=note if options.json else out)
    return status


def _check_detach(batch: Batch, launcher: Launcher, *, detach: bool) -> None:
    if not detach:
        return
    if isinstance(launcher, LocalLauncher):
        launcher.refuse_to_detach()
    if batch.max_total_cost_usd is not None:
        raise UsageError(
            "--max-total-cost-usd needs somebody who watches what is spent, and --detach leaves nobody",
            mend="--max-cost-usd bounds each trajectory by itself",
        )


async def _run(batch: Batch, launcher: Launcher, plugins: Plugins, display: BatchDisplay, detach: bool) -> BatchResult:
    config = batch.cells[0].config
    chosen = choose_storage(plugins, config.storage, config.storage_opts)
    storage = await chosen.spec.create(chosen.options)
    stop = BatchStop()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(stop_on_signal, stop, display.say)
            group.start_soon(display.animate)
            batch_run = BatchRun(
                batch=batch,
                launcher=launcher,
                storage=storage,
                observer=display,
                stop=stop,
                progress=display.progress,
                detach=detach,
            )
            result = await batch_run.run()
            group.cancel_scope.cancel()
    finally:
        display.close()
        with anyio.move_on_after(10, shield=True):
            await storage.close()
    return result
