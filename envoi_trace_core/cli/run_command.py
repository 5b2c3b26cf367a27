"""Run mode: a trajectory, or several equal ones."""

from __future__ import annotations

from envoi_trace_core.cli.launching import launch
from envoi_trace_core.cli.run_config import configuration
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.plugins import Plugins


def run(options: RunOptions) -> int:
    """Run a trajectory, or several equal ones; gives the exit status."""
    if options.asks_for_batch:
        from envoi_trace_core.cli.batch_trials import run_trials

        return run_trials(options)
    options.refuse_several("envoi-trace without --trials")
    plugins = Plugins.load()
    return launch(configuration(options, plugins), options)
