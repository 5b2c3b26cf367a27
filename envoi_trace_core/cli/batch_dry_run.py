"""`envoi-trace batch PLAN.toml --dry-run`: what would run, trial by trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envoi_trace_core.cli.output import note, out, out_json, out_table
from envoi_trace_core.cli.reading import StorageWords, run_async
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.batch.cells import Batch, Trial
from envoi_trace_core.run.batch.check import check_batch
from envoi_trace_core.run.batch.running import Standing
from envoi_trace_core.run.batch.stored import StoredBatch

if TYPE_CHECKING:
    from envoi_trace_core.run.batch.results import Attempt


def list_batch(batch: Batch, options: RunOptions, *, source: str | None) -> int:
    """List the trials; gives the exit status.

    Raises:
        UsageError: The batch could not be run as it is.
    """
    check_batch(batch, Plugins.load(), source=source)
    stored = run_async(lambda: _stored(batch))
    rows = [_row(batch, stored, trial) for trial in batch.all_trials()]
    if options.json:
        out_json({"batch": batch.name, "trials": rows})
        return 0
    out_table(["trajectory", "what happens"], [[row["trajectory_id"], row["what"]] for row in rows])
    starts = sum(row["starts"] for row in rows)
    note(f"{starts} of {len(rows)} would run" + (f", {min(batch.concurrency, starts)} at once" if starts else ""))
    if batch.max_total_cost_usd is not None:
        spent = sum(attempt.cost_usd or 0.0 for attempts in stored.attempts.values() for attempt in attempts)
        out(f"${spent:.4f} of ${batch.max_total_cost_usd:g} are spent")
    return 0


async def _stored(batch: Batch) -> StoredBatch:
    config = batch.cells[0].config
    async with StorageWords(name=config.storage, opts=config.storage_opts).open() as storage:
        return await StoredBatch.find(storage, batch)


def _row(batch: Batch, stored: StoredBatch, trial: Trial) -> dict[str, Any]:
    standing = Standing(trial=trial, attempts=stored.of(batch, trial))
    ended = standing.has_ended(batch.retries)
    last = standing.last
    trajectory_id = batch.trajectory_id(trial, last.number if ended and last is not None else standing.next_attempt())
    return {
        "trajectory_id": trajectory_id,
        "cell": trial.cell.name,
        "trial": trial.number,
        "starts": not ended,
        "what": _what(standing, last, ended=ended),
        "model": trial.cell.config.model,
        "task": trial.cell.config.task,
        "environment": trial.cell.config.environment,
    }


def _what(standing: Standing, last: Attempt | None, *, ended: bool) -> str:
    if last is None:
        return "starts"
    if ended:
        return f"has ended: {last.reason}"
    if standing.is_unfinished:
        return f"goes on after part {last.parts}"
    return f"starts again after {last.reason}"
