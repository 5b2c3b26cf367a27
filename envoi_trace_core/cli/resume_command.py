"""`envoi-trace resume ID`: go on with a trajectory from what is stored of it, here or on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from envoi_trace_core.cli.reading import StorageWords, run_async
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.cli.signature import takes_run_options
from envoi_trace_core.errors import KeyMissingError, UsageError

if TYPE_CHECKING:
    from envoi_trace_core.run.config import RunConfig
    from envoi_trace_core.run.outcome import RunOutcome

PLAIN = (
    *("agent", "model", "sandbox", "lang", "hidden", "eval_sandbox", "eval_concurrency"),
    *("max_parts", "max_turns", "max_tokens", "max_cost_usd", "auto_resume", "max_restarts"),
)
"""Options whose configuration has the same name and the same value."""
IN_SECONDS = ("timeout", "idle_timeout", "turn_timeout", "eval_grace", "restart_delay")


@takes_run_options
def resume(
    trajectory: Annotated[str, typer.Argument(help="An id, or a unique prefix of one.", metavar="ID")],
    options: RunOptions,
) -> None:
    """Go on with a trajectory; options that are given override those of its last run."""
    from envoi_trace_core.cli.launching import launch, report

    if "trajectory_id" in options.given:
        raise UsageError("--trajectory-id stands beside the id itself", mend=f"envoi-trace resume {trajectory}")
    options.refuse_several("resume")
    storage = StorageWords(name=options.storage, opts=options.storage_opt)
    config, solved = run_async(lambda: _find(trajectory, storage))
    if solved is not None:
        raise typer.Exit(report(solved, options))
    assert config is not None
    raise typer.Exit(launch(overridden(config, options), options))


async def _find(word: str, words: StorageWords) -> tuple[RunConfig | None, RunOutcome | None]:
    """The configuration of a run that may go on, else how it ended."""
    from envoi_trace_core.cli.storage_choice import choose_storage
    from envoi_trace_core.plugins import Plugins
    from envoi_trace_core.run.config import RunConfig
    from envoi_trace_core.run.resume import solved_outcome
    from envoi_trace_core.trace.keys import config_key
    from envoi_trace_core.trace.lookup import resolve_id

    async with words.open() as storage:
        trajectory_id = await resolve_id(storage, word)
        try:
            config = RunConfig.from_json((await storage.get(config_key(trajectory_id))).decode(errors="replace"))
        except KeyMissingError:
            solved = await solved_outcome(storage, trajectory_id)
            if solved is not None:
                return None, solved
            raise UsageError(
                f"nothing is stored that trajectory {trajectory_id} could go on with",
                mend=f"envoi-trace --trajectory-id {trajectory_id} with the options of its run, where it ran",
            ) from None
    # It goes on in the storage in which it was found, whatever that was called where it ran.
    spec = choose_storage(Plugins.load(), words.name, words.opts).spec
    return attrs.evolve(config, storage=spec.name, storage_opts=words.opts), None


def overridden(config: RunConfig, options: RunOptions) -> RunConfig:
    """A stored configuration with the options that stood on the command line.

    Raises:
        UsageError: One of them is wrong.
    """
    from envoi_trace_core.cli.run_config import merged, pairs

    given = options.given
    changes: dict[str, Any] = {name: getattr(options, name) for name in PLAIN if name in given}
    changes |= {f"{name}_s": getattr(options, name) for name in IN_SECONDS if name in given}
    if options.task is not None and "task" in given:
        changes["task"] = str(Path(options.task).absolute())
    if options.env is not None and "env" in given:
        changes["environment"] = str(Path(options.env).absolute())
    if "param" in given:
        changes["params"] = {**config.params, **pairs(options.param, "--param")}
    if "label" in given:
        changes["labels"] = {**config.labels, **pairs(options.label, "--label")}
    for name in ("agent", "sandbox"):
        is_same = changes.get(name, getattr(config, name)) == getattr(config, name)
        known = getattr(config, f"{name}_opts") if is_same else ()
        added = getattr(options, f"{name}_opt") if f"{name}_opt" in given else ()
        changes[f"{name}_opts"] = merged(known, added)
    return attrs.evolve(config, **changes)
