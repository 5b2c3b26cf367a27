"""From options to a run's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from envoi_trace_core.cli.output import note
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.cli.storage_choice import choose_storage
from envoi_trace_core.errors import UsageError
from envoi_trace_core.ids import check_trajectory_id, new_trajectory_id
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.config import RunConfig


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


def merged(known: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """`KEY=VALUE` words; a key that is given again replaces all that it had."""
    replaced = {_key(word) for word in added}
    return (*(word for word in known if _key(word) not in replaced), *added)


def _key(word: str) -> str:
    return word.partition("=")[0].strip().replace("-", "_")
