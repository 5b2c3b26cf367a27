"""`envoi-trace fork ID --at-part N`: a new trajectory from the workspace of any part of a stored one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from envoi_trace_core.cli.reading import StorageWords, run_async
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.cli.signature import takes_run_options
from envoi_trace_core.errors import KeyMissingError, UsageError

if TYPE_CHECKING:
    from envoi_trace_core.protocols import Storage
    from envoi_trace_core.run.config import RunConfig


@takes_run_options
def fork(
    trajectory: Annotated[str, typer.Argument(help="An id, or a unique prefix of one.", metavar="ID")],
    at_part: Annotated[int, typer.Option(help="Start from the workspace right after this part.", metavar="N", min=1)],
    options: RunOptions,
) -> None:
    """Start a new trajectory from a part of a stored one, with any agent; options override those of its run."""
    from envoi_trace_core.cli.launching import launch

    options.refuse_several("fork")
    words = StorageWords(name=options.storage, opts=options.storage_opt)
    raise typer.Exit(launch(run_async(lambda: _configuration(trajectory, at_part, words, options)), options))


async def _configuration(word: str, part: int, words: StorageWords, options: RunOptions) -> RunConfig:
    from envoi_trace_core.run.forking import commit_of_part
    from envoi_trace_core.trace.keys import trace_key
    from envoi_trace_core.trace.lookup import resolve_id

    async with words.open() as storage:
        origin = await resolve_id(storage, word)
        await commit_of_part(storage, origin, part)
        if options.trajectory_id and await storage.stat(trace_key(options.trajectory_id)) is not None:
            raise UsageError(
                f"trajectory {options.trajectory_id} exists, and a fork is a new one",
                mend="another --trajectory-id, or none for a new one",
            )
        stored = await _stored_configuration(storage, origin)
    asked = _asked(stored, words, options)
    return attrs.evolve(asked, forked_from=origin, forked_at_part=part, batch=None, trial=None)


async def _stored_configuration(storage: Storage, trajectory_id: str) -> RunConfig | None:
    """Of the origin's own run; None when nothing is kept of it any more, because it was solved."""
    from envoi_trace_core.run.config import RunConfig
    from envoi_trace_core.trace.keys import config_key

    try:
        return RunConfig.from_json((await storage.get(config_key(trajectory_id))).decode(errors="replace"))
    except KeyMissingError:
        return None


def _asked(stored: RunConfig | None, words: StorageWords, options: RunOptions) -> RunConfig:
    from envoi_trace_core.cli.resume_command import overridden
    from envoi_trace_core.cli.run_config import configuration
    from envoi_trace_core.cli.storage_choice import choose_storage
    from envoi_trace_core.ids import check_trajectory_id, new_trajectory_id
    from envoi_trace_core.plugins import Plugins

    plugins = Plugins.load()
    if stored is None:
        if options.task is None or options.env is None:
            missing = "--task" if options.task is None else "--env"
            raise UsageError(
                f"{missing} is missing: the options of a run that was solved are not kept",
                mend="envoi-trace fork ID --at-part N --task PATH --env PATH [options]",
            )
        return configuration(options, plugins)
    trajectory_id = options.trajectory_id or new_trajectory_id()
    check_trajectory_id(trajectory_id)
    asked = overridden(stored, options)
    return attrs.evolve(
        asked,
        trajectory_id=trajectory_id,
        model=asked.model if asked.agent == stored.agent or "model" in options.given else None,
        storage=choose_storage(plugins, words.name, words.opts).spec.name,
        storage_opts=words.opts,
    )
