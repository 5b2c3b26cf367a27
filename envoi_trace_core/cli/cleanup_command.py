"""`envoi-trace cleanup`: the sandboxes that earlier runs left behind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from envoi_trace_core.cli.output import age, note, out, out_table, printable
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, run_async
from envoi_trace_core.errors import EnvoiTraceError, SandboxLostError

if TYPE_CHECKING:
    from envoi_trace_core.protocols import SandboxInfo
    from envoi_trace_core.specs import SandboxSpec

CLOSE_TIMEOUT_S = 60.0
EXIT_NOT_ALL_ENDED = 1


@attrs.frozen
class Kind:
    """A kind of sandbox that can be looked through."""

    spec: SandboxSpec[Any]
    options: Any


@attrs.frozen
class Found:
    """A sandbox that lives, and whether a run uses it."""

    kind: Kind
    info: SandboxInfo
    is_in_use: bool


def cleanup(
    sandbox: Annotated[
        str | None, typer.Option(help="Which sandboxes; all kinds by default.", metavar="NAME", show_default=False)
    ] = None,
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


async def _cleanup(name: str | None, opts: Sequence[str], words: StorageWords, yes: bool, everything: bool) -> int:
    found = await _mark(await _live(name, opts), words)
    if not found:
        note("no sandboxes")
        return 0
    now = datetime.now(UTC)
    out_table(
        ("SANDBOX", "KIND", "TRAJECTORY", "ROLE", "AGE", "RUN"),
        [
            (
                each.info.id,
                each.kind.spec.name,
                each.info.trajectory_id,
                each.info.role,
                age(each.info.created_at, now) if each.info.created_at else "-",
                "alive" if each.is_in_use else "-",
            )
            for each in found
        ],
    )
    ending = [each for each in found if everything or not each.is_in_use]
    if not yes:
        note(f"{len(ending)} would be ended: envoi-trace cleanup{f' --sandbox {name}' if name else ''} --yes")
        return 0
    failed = [each.info.id for each in ending if not await _end(each)]
    out(f"ended {len(ending) - len(failed)} of {len(found)}")
    return EXIT_NOT_ALL_ENDED if failed else 0


async def _live(name: str | None, opts: Sequence[str]) -> list[tuple[Kind, SandboxInfo]]:
    """Those of one kind; without a name, those of every kind for which this machine has what it takes."""
    from envoi_trace_core.options import parse_options
    from envoi_trace_core.plugins import Plugins

    plugins = Plugins.load()
    found: list[tuple[Kind, SandboxInfo]] = []
    for each in (name,) if name is not None else plugins.names("sandbox"):
        spec = plugins.sandbox(each)
        kind = Kind(spec, parse_options(spec.options, opts if each == name else (), "sandbox", each))
        try:
            found += [(kind, info) for info in await spec.list_live(kind.options)]
        except EnvoiTraceError as error:
            if name is not None:
                raise
            note(f"{each}: not looked at ({printable(error.message)})")
    return found


async def _mark(live: Sequence[tuple[Kind, SandboxInfo]], words: StorageWords) -> list[Found]:
    from envoi_trace_core.trace.lease import is_held

    if not live:
        return []
    async with words.open() as storage:
        return [Found(kind, info, await is_held(storage, info.trajectory_id)) for kind, info in live]


async def _end(found: Found) -> bool:
    import anyio

    try:
        with anyio.fail_after(CLOSE_TIMEOUT_S):
            await (await found.kind.spec.attach(found.info.id, found.kind.options)).close()
    except SandboxLostError:
        return True
    except (EnvoiTraceError, TimeoutError) as error:
        note(f"{found.info.id} could not be ended: {error or 'no answer in time'}")
        return False
    return True
