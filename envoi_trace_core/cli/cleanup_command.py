"""`envoi-trace cleanup`: the sandboxes that earlier runs left behind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from envoi_trace_core.cli.output import age, note, out, out_table
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, run_async
from envoi_trace_core.errors import EnvoiTraceError, SandboxLostError

if TYPE_CHECKING:
    from envoi_trace_core.protocols import SandboxInfo
    from envoi_trace_core.specs import SandboxSpec

CLOSE_TIMEOUT_S = 60.0
EXIT_NOT_ALL_ENDED = 1


@attrs.frozen
class Found:
    """A sandbox that lives, and whether a run uses it."""

    info: SandboxInfo
    is_in_use: bool


def cleanup(
    sandbox: Annotated[str, typer.Option(help="Which sandboxes.", metavar="NAME")] = "local",
    sandbox_opt: Annotated[
        list[str] | None, typer.Option(help="An option of the sandbox. Repeatable.", metavar="KEY=VALUE")
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
    yes: Annotated[bool, typer.Option("--yes", help="End them.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also those of runs that are alive.")] = False,
) -> None:
    """List the sandboxes that earlier runs left behind; --yes ends them."""
    words = StorageWords.of(storage, storage_opt)
    raise typer.Exit(run_async(lambda: _cleanup(sandbox, tuple(sandbox_opt or ()), words, yes, everything)))


async def _cleanup(name: str, opts: Sequence[str], words: StorageWords, yes: bool, everything: bool) -> int:
    from envoi_trace_core.options import parse_options
    from envoi_trace_core.plugins import Plugins

    spec = Plugins.load().sandbox(name)
    options = parse_options(spec.options, opts, "sandbox", name)
    found = await _find(await spec.list_live(options), words)
    if not found:
        note("no sandboxes")
        return 0
    now = datetime.now(UTC)
    out_table(
        ("SANDBOX", "TRAJECTORY", "ROLE", "AGE", "RUN"),
        [
            (
                each.info.id,
                each.info.trajectory_id,
                each.info.role,
                age(each.info.created_at, now) if each.info.created_at else "-",
                "alive" if each.is_in_use else "-",
            )
            for each in found
        ],
    )
    ending = [each.info for each in found if everything or not each.is_in_use]
    if not yes:
        note(f"{len(ending)} would be ended: envoi-trace cleanup --sandbox {name} --yes")
        return 0
    failed = [info.id for info in ending if not await _end(spec, options, info)]
    out(f"ended {len(ending) - len(failed)} of {len(found)}")
    return EXIT_NOT_ALL_ENDED if failed else 0


async def _find(infos: Sequence[SandboxInfo], words: StorageWords) -> list[Found]:
    from envoi_trace_core.trace.lease import STALENESS_S, read_holder

    found: list[Found] = []
    if not infos:
        return found
    async with words.open() as storage:
        for info in infos:
            holder = await read_holder(storage, info.trajectory_id)
            is_in_use = (
                holder is not None
                and not holder.is_known_dead
                and abs((datetime.now(UTC) - holder.heartbeat_at).total_seconds()) <= STALENESS_S
            )
            found.append(Found(info, is_in_use))
    return found


async def _end(spec: SandboxSpec[Any], options: Any, info: SandboxInfo) -> bool:
    import anyio

    try:
        with anyio.fail_after(CLOSE_TIMEOUT_S):
            await (await spec.attach(info.id, options)).close()
    except SandboxLostError:
        return True
    except (EnvoiTraceError, TimeoutError) as error:
        note(f"{info.id} could not be ended: {error or 'no answer in time'}")
        return False
    return True
