"""`envoi-trace doctor`: what a run would need, and what of it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from envoi_trace_core.cli.output import Cell, note, out, out_json, out_table
from envoi_trace_core.cli.reading import AsJson, StorageName, StorageOpts, run_async
from envoi_trace_core.cli.run_options import RunOptions

if TYPE_CHECKING:
    from envoi_trace_core.run.doctor import Finding

EXIT_SOMETHING_MISSING = 1


def doctor(
    agent: Annotated[str, typer.Option(help="The agent of the run.", metavar="NAME")] = RunOptions().agent,
    agent_opt: Annotated[
        list[str] | None, typer.Option(help="An option of the agent. Repeatable.", metavar="KEY=VALUE")
    ] = None,
    sandbox: Annotated[str, typer.Option(help="The sandbox of the run.", metavar="NAME")] = RunOptions().sandbox,
    sandbox_opt: Annotated[
        list[str] | None, typer.Option(help="An option of the sandbox. Repeatable.", metavar="KEY=VALUE")
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
    json: AsJson = False,
) -> None:
    """Look at everything that a run would need; say what is missing, and how to mend it."""
    from envoi_trace_core.cli.storage_choice import choose_storage
    from envoi_trace_core.plugins import Plugins
    from envoi_trace_core.run.doctor import Asked, examine

    plugins = Plugins.load(warn=lambda _line: None)  # broken ones are findings here
    opts = {"agent": agent_opt, "sandbox": sandbox_opt, "storage": storage_opt}
    asked = Asked(
        agent=agent,
        sandbox=sandbox,
        storage=storage or choose_storage(plugins, None, ()).spec.name,
        opts={kind: tuple(words or ()) for kind, words in opts.items()},
    )
    findings = run_async(lambda: examine(asked, plugins))
    missing = [finding for finding in findings if finding.is_needed and finding.health != "ok"]
    if json:
        out_json([attrs.asdict(finding) for finding in findings])
    else:
        _print(findings)
        run = f"a run of {asked.agent} in {asked.sandbox}, stored in {asked.storage},"
        note(f"{run} can start" if not missing else f"{run} can't start yet")
    raise typer.Exit(EXIT_SOMETHING_MISSING if missing else 0)


def _print(findings: Sequence[Finding]) -> None:
    rows = []
    for finding in findings:
        if finding.health == "ok":
            mark = Cell("ok", "green")
        else:
            mark = Cell("missing", "red") if finding.is_needed else Cell("-", "dim")
        rows.append((mark, finding.what, finding.detail))
    out_table(("", "what", ""), rows)
    for finding in findings:
        if finding.is_needed and finding.mend:
            out(f"mend {finding.what}: {finding.mend}")
