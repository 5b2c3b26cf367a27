"""Before the first trajectory starts: every cell of a batch must be one that can run."""

from __future__ import annotations

from envoi_trace_core.errors import EnvoiTraceError, UsageError
from envoi_trace_core.ids import check_trajectory_id
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.batch.cells import Batch, Trial, check_batch_name
from envoi_trace_core.run.plan import make_plan


def check_batch(batch: Batch, plugins: Plugins, *, source: str | None = None) -> None:
    """Check all of it; what a check reads is let go again.

    Args:
        batch: What is to run.
        plugins: What is installed.
        source: The file that it was read from, for an error; None when it came from the command line alone.

    Raises:
        UsageError: A name, folder, option or credential of a cell is wrong or missing.
        PluginError: A plugin that was asked for is broken.
    """
    check_batch_name(batch.name)
    names = [cell.name for cell in batch.cells]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"{source or 'the batch'}: two cells are called {name!r}", mend='give an entry a name: name = "fast"'
            )
    for cell in batch.cells:
        last = Trial(cell=cell, number=batch.trials)
        check_trajectory_id(batch.trajectory_id(last, batch.retries + 1))
        try:
            plan = make_plan(batch.config(last, 1), plugins)
            if batch.max_total_cost_usd is not None and plan.price is None and not plan.agent.spec.reports_cost:
                raise UsageError(
                    f"--max-total-cost-usd needs a price: {cell.config.agent} does not report what its model costs",
                    mend="--agent-opt price=in:1.25,cached:0.1,out:10 (US dollars a million tokens)",
                )
        except EnvoiTraceError as error:
            if source is None:
                raise
            raise type(error)(f"{source}: cell {cell.name}: {error.message}", mend=error.mend) from error
