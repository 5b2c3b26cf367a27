"""From a configuration to its launcher, and the end as exit status."""

from __future__ import annotations

import json
from collections.abc import Callable

import anyio
import attrs

from envoi_trace_core.cli.errors import report as report_error
from envoi_trace_core.cli.launcher_choice import choose_launcher
from envoi_trace_core.cli.output import note, out, printable
from envoi_trace_core.cli.run_display import RunDisplay
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.cli.signals import stop_on_signal
from envoi_trace_core.errors import SandboxError
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.protocols import Launcher
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.outcome import EXIT_BELOW_FAIL_UNDER, EXIT_STATUS, RunOutcome
from envoi_trace_core.run.stop import StopSignal
from envoi_trace_core.state import trajectory_dir


def launch(config: RunConfig, options: RunOptions) -> int:
    """Run what a configuration says; gives the exit status."""
    launcher = choose_launcher(Plugins.load(), options)
    display = RunDisplay(json=options.json, quiet=options.quiet)
    try:
        outcome = anyio.run(_launch, launcher, config, display, options.detach)
    finally:
        display.close()
    if isinstance(outcome, SandboxError):
        report_error(outcome)
        return EXIT_STATUS["infrastructure_error"]
    if outcome is None:
        if options.json:
            out(json.dumps({"trajectory_id": config.trajectory_id, "detached": True}))
        return 0
    return report(outcome, options)


async def _launch(
    launcher: Launcher, config: RunConfig, display: RunDisplay, detach: bool
) -> RunOutcome | SandboxError | None:
    """How it ended; an error when what should run the orchestrator failed, so that there is no run to tell of."""
    stop = StopSignal()
    outcome: RunOutcome | SandboxError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(stop_on_signal, stop, display.note)
        try:
            outcome = await launcher.launch(config, observer=display, stop=stop, detach=detach)
        except SandboxError as error:
            outcome = error
        group.cancel_scope.cancel()
    return outcome


def report(outcome: RunOutcome, options: RunOptions) -> int:
    """Tell the end; gives the exit status."""
    status = outcome.exit_status
    if options.fail_under is not None and status == 0 and outcome.best_share < options.fail_under:
        status = EXIT_BELOW_FAIL_UNDER
    if options.json:
        out(json.dumps(_summary(outcome)))
    _print_end(outcome, say=note if options.json else out)
    return status


def _summary(outcome: RunOutcome) -> dict[str, object]:
    shown = (
        "trajectory_id", "reason", "message", "parts", "turns", "solved_paths", "total_paths", "final_commit",
        "trace_uri", "bundle_uri", "cost_usd",
    )  # fmt: skip
    return {name: getattr(outcome, name) for name in shown} | {"token_usage": attrs.asdict(outcome.token_usage)}


def _print_end(outcome: RunOutcome, *, say: Callable[[str], None]) -> None:
    words = [
        f"{outcome.reason}: {outcome.parts} parts in {outcome.turns} turns",
        f"{outcome.solved_paths} of {outcome.total_paths} test paths solved",
    ]
    if outcome.token_usage.total:
        words.append(f"{outcome.token_usage.total:,} tokens")
    if outcome.cost_usd is not None:
        words.append(f"${outcome.cost_usd:.4f}")
    say(", ".join(words))
    if outcome.message and outcome.reason not in ("solved", "part_limit"):
        say(f"  {printable(outcome.message)}")
    if outcome.mend:
        say(f"  mend: {outcome.mend}")
    for reason in outcome.unsaved:
        say(f"  not stored: {printable(reason)}")
    if outcome.unsaved:
        say(f"  all of it is on this machine: {trajectory_dir(outcome.trajectory_id)}")
        say(f"  envoi-trace upload {outcome.trajectory_id}")
    say(f"  envoi-trace show {outcome.trajectory_id}")
