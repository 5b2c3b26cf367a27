"""Run mode: from the command line to a configuration, a launcher, and the end as exit status."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import anyio
import attrs

from envoi_trace_core.cli.errors import report as report_error
from envoi_trace_core.cli.launcher_choice import choose_launcher
from envoi_trace_core.cli.output import note, out, printable
from envoi_trace_core.cli.run_display import RunDisplay
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.cli.storage_choice import choose_storage
from envoi_trace_core.errors import SandboxError, UsageError
from envoi_trace_core.ids import check_trajectory_id, new_trajectory_id
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.protocols import Launcher
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.outcome import EXIT_BELOW_FAIL_UNDER, EXIT_STATUS, RunOutcome
from envoi_trace_core.run.stop import StopRequest, StopSignal
from envoi_trace_core.state import trajectory_dir

SIGNAL_EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def run(options: RunOptions) -> int:
    """Run a trajectory, or several equal ones; gives the exit status."""
    if options.asks_for_batch:
        from envoi_trace_core.cli.batch_trials import run_trials

        return run_trials(options)
    options.refuse_several("envoi-trace without --trials")
    plugins = Plugins.load()
    return launch(configuration(options, plugins), options)


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


class Stoppable(Protocol):
    """A run, or several."""

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to end."""
        ...

    def ask(self, request: StopRequest) -> None:
        """Ask it to end."""
        ...


async def stop_on_signal(stop: Stoppable, say: Callable[[str], None]) -> None:
    """The first signal ends the run and saves it; further ones say that it is still saving."""
    with anyio.open_signal_receiver(*SIGNAL_EXIT_STATUS) as signals:
        async for number in signals:
            if stop.interrupted:
                say(f"{number.name}: still saving the trace and closing the sandboxes")
                continue
            say(f"{number.name}: the trace is being saved and the sandboxes closed")
            stop.ask(
                StopRequest(
                    reason="interrupted", message=f"ended by {number.name}", exit_status=SIGNAL_EXIT_STATUS[number]
                )
            )


def configuration(options: RunOptions, plugins: Plugins) -> RunConfig:
    """What the options ask for, with every default decided.

    Raises:
        UsageError: Something that is needed was not given, or can't be.
    """
    trajectory_id = check_trajectory_id(options.trajectory_id or new_trajectory_id())
    check_task_and_env(options)
    return config_of(options, trajectory_id=trajectory_id, storage=storage_name(options, plugins))


def check_task_and_env(options: RunOptions) -> None:
    """A run needs both.

    Raises:
        UsageError: One of them was not given.
    """
    if options.task is None or options.env is None:
        missing = "--task" if options.task is None else "--env"
        raise UsageError(
            f"{missing} is missing: a run needs a task and an environment",
            mend="envoi-trace --task PATH --env PATH [options]; `envoi-trace --help` lists them",
        )


def storage_name(options: RunOptions, plugins: Plugins) -> str:
    """Which storage it will be; the user is told.

    Raises:
        UsageError: There is no such storage, or an option is wrong.
    """
    storage = choose_storage(plugins, options.storage, options.storage_opt)
    if not options.quiet:
        note(f"storage: {storage.spec.name} ({storage.reason})")
    return storage.spec.name


def config_of(options: RunOptions, *, trajectory_id: str, storage: str) -> RunConfig:
    """The options as a run's configuration; task and environment are among them."""
    assert options.task is not None
    assert options.env is not None
    return RunConfig(
        trajectory_id=trajectory_id,
        task=str(Path(options.task).absolute()),
        environment=str(Path(options.env).absolute()),
        agent=options.agent,
        model=options.model,
        agent_opts=tuple(options.agent_opt),
        sandbox=options.sandbox,
        sandbox_opts=tuple(options.sandbox_opt),
        storage=storage,
        storage_opts=tuple(options.storage_opt),
        params=pairs(options.param, "--param"),
        lang=options.lang,
        hidden=tuple(options.hidden),
        labels=pairs(options.label, "--label"),
        eval_sandbox=options.eval_sandbox,
        eval_concurrency=options.eval_concurrency,
        eval_grace_s=options.eval_grace,
        max_parts=options.max_parts,
        max_turns=options.max_turns,
        max_tokens=options.max_tokens,
        max_cost_usd=options.max_cost_usd,
        timeout_s=options.timeout,
        idle_timeout_s=options.idle_timeout,
        turn_timeout_s=options.turn_timeout,
        auto_resume=options.auto_resume,
        max_restarts=options.max_restarts,
        restart_delay_s=options.restart_delay,
    )


def pairs(words: tuple[str, ...], option: str) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping.

    Raises:
        UsageError: A word has no `=`, or no key.
    """
    found: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise UsageError(f"{option} {word!r} is not KEY=VALUE", mend=f"{option} key=value")
        found[key] = value
    return found


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
