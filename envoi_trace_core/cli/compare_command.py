"""`envoi-trace compare`: trajectories side by side, or groups of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from envoi_trace_core.cli.files import image_format_of, output_folder, write_files
from envoi_trace_core.cli.output import Cell, duration, note, out, out_json, out_table, printable, warn
from envoi_trace_core.cli.reading import AsJson, StorageName, StorageOpts, StorageWords, run_async, trace_file
from envoi_trace_core.errors import UsageError
from envoi_trace_core.suggest import did_you_mean

if TYPE_CHECKING:
    from envoi_trace_core.analysis.compare import Compared
    from envoi_trace_core.analysis.compare_charts import Measure
    from envoi_trace_core.analysis.curves import Axis, Position, Progress
    from envoi_trace_core.analysis.groups import Group
    from envoi_trace_core.analysis.rates import Estimate
    from envoi_trace_core.domain.parts import Trajectory
    from envoi_trace_core.trace.reader import Trace, TraceHeader

_AXES = ("parts", "calls", "tokens", "cost", "time")
_MEASURES = ("tests", "paths")


def compare(
    trajectories: Annotated[
        list[str] | None, typer.Argument(help="Ids, unique prefixes of ids, or paths to a trace.parquet.", metavar="ID")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Groups of all trajectories of this batch.", metavar="NAME")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Groups: agent, model, task, environment, batch, trial or label:KEY; several with commas. "
            "Without an id, of all of the storage.",
            metavar="FIELD",
        ),
    ] = None,
    axis: Annotated[
        str, typer.Option(help="Of the curves: parts, calls, tokens, cost or time.", metavar="NAME")
    ] = "parts",
    measure: Annotated[str, typer.Option(help="What the curves count: tests or paths.", metavar="NAME")] = "tests",
    output: Annotated[Path, typer.Option(help="Folder for the chart and the report.", metavar="DIR")] = Path("compare"),
    image_format: Annotated[str, typer.Option("--format", help="Of the chart: png or svg.", metavar="NAME")] = "png",
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
    json: AsJson = False,
) -> None:
    """Compare trajectories: their curves in one chart, a report and a table. With --batch or --by: groups of them."""
    chosen_axis = _one_of("--axis", axis, _AXES)
    chosen_measure = _one_of("--measure", measure, _MEASURES)
    image_format_of(image_format)
    output_folder(output)
    words = StorageWords.of(storage, storage_opt)
    ids = list(dict.fromkeys(trajectories or ()))
    if batch is not None or by is not None:
        _compare_groups(ids, batch, by, words, output, image_format, as_json=json)
        return
    if len(ids) < 2:
        mend = f"envoi-trace graph {ids[0]} shows one" if ids else "envoi-trace compare ID ID, or --by agent,model"
        raise UsageError(f"compare takes two trajectories or more, not {len(ids)}", mend=mend)
    _compare_trajectories(
        ids, cast("Axis", chosen_axis), cast("Measure", chosen_measure), words, output, image_format, as_json=json
    )


def _one_of(option: str, word: str, known: Sequence[str]) -> str:
    if word not in known:
        raise UsageError(
            f"{option} {word!r} is not one of {', '.join(known)}.{did_you_mean(word, known)}",
            mend=f"{option} {known[0]}",
        )
    return word


# -- trajectories ----------------------------------------------------------------------------------


def _compare_trajectories(
    ids: Sequence[str],
    axis: Axis,
    measure: Measure,
    words: StorageWords,
    output: Path,
    image_format: str,
    *,
    as_json: bool,
) -> None:
    from envoi_trace_core.analysis.compare import compared, comparison_json, notes_on
    from envoi_trace_core.analysis.compare_charts import curves_chart
    from envoi_trace_core.analysis.compare_report import comparison_report

    found = compared(run_async(lambda: _digests(ids, words)))
    if len({each.trajectory.trajectory_id for each in found}) < len(found):
        raise UsageError("two of the words name the same trajectory", mend="envoi-trace list shows the ids")
    if all(each.progress.end.on(axis) is None for each in found):
        raise UsageError(f"--axis {axis}: no {axis} is known of any of them", mend="--axis tokens, or --axis time")
    chosen = image_format_of(image_format)
    files = {
        f"passed_by_{axis}.{chosen}": curves_chart(found, axis, measure, chosen),
        "report.html": comparison_report(found, axis, measure),
    }
    paths = write_files(output, files)
    if as_json:
        out_json({**comparison_json(found), "files": [str(path) for path in paths]})
        return
    _say_trajectories(found)
    for text in notes_on(found):
        note(f"note: {printable(text)}")
    _say_files(paths)


async def _digests(ids: Sequence[str], words: StorageWords) -> list[tuple[Trajectory, Progress]]:
    """Of each trajectory only what a comparison needs is kept."""
    from envoi_trace_core.analysis.compare import digest
    from envoi_trace_core.trace.reader import read_trace, read_trajectory, resolve_id

    paths = {word: trace_file(word) for word in ids}
    found = {word: digest(read_trace(path)) for word, path in paths.items() if path is not None}
    if len(found) < len(ids):
        async with words.open() as storage:
            resolved = {word: await resolve_id(storage, word) for word in ids if word not in found}
            for word, trajectory_id in resolved.items():
                found[word] = digest(await read_trajectory(storage, trajectory_id))
    return [found[word] for word in ids]


def _say_trajectories(found: Sequence[Compared]) -> None:
    from envoi_trace_core.analysis.compare import MILESTONES

    head = ["trajectory", "ended", "best", "final", "paths lost", "tests lost", "builds failed"]
    out_table(
        [*head, "parts", "calls", "tokens", "cost", "time"],
        (_summary_cells(each) for each in found),
        right=range(2, 12),
    )
    out()
    rows = [
        [each.name if number == 0 else "", f"{share:.0%} of paths", *_position_cells(at, "never")]
        for each in found
        for number, (share, at) in enumerate(zip(MILESTONES, each.reached, strict=True))
    ]
    out_table(["trajectory", "to reach", "parts", "calls", "tokens", "cost", "time"], rows, right=range(1, 7))


def _summary_cells(each: Compared) -> list[str | Cell]:
    total = each.progress.total_tests
    lost = each.regressions
    return [
        each.name,
        each.progress.end_reason,
        f"{each.best.counts.passed}/{total}" if each.best is not None else "-",
        f"{each.final.counts.passed}/{total}" if each.final is not None else "-",
        f"{lost.paths} ({lost.paths_at_end} still)" if lost.paths else "0",
        str(lost.tests),
        str(lost.failed_builds),
        *_position_cells(each.progress.end, "-"),
    ]


def _position_cells(at: Position | None, missing: str) -> list[str]:
    if at is None:
        return [missing, "", "", "", ""]
    return [f"{at.part:,}", f"{at.calls:,}", f"{at.tokens:,}", _usd(at.cost_usd), duration(at.elapsed_s)]


def _usd(value: float | None) -> str:
    return "-" if value is None else f"${value:,.4f}" if value < 10 else f"${value:,.2f}"


def _say_files(paths: Iterable[Path]) -> None:
    out()
    for path in paths:
        out(printable(str(path)))


# -- groups ----------------------------------------------------------------------------------------


def _compare_groups(
    ids: Sequence[str],
    batch: str | None,
    by: str | None,
    words: StorageWords,
    output: Path,
    image_format: str,
    *,
    as_json: bool,
) -> None:
    from envoi_trace_core.analysis.compare_charts import groups_chart
    from envoi_trace_core.analysis.compare_report import groups_report
    from envoi_trace_core.analysis.groups import group_fields, groups_json, groups_of

    fields = group_fields(by or "agent,model")
    headers = run_async(lambda: _headers(ids, batch, words))
    groups = groups_of(headers, fields)
    chosen = image_format_of(image_format)
    data: dict[str, Any] = {**groups_json(groups, fields), "batch": batch}
    title = f"{len(headers):,} trajectories" + (f" of batch {batch}" if batch is not None else "")
    files = {
        f"solve_rate.{chosen}": groups_chart(groups, fields, chosen),
        "report.html": groups_report(data, title),
    }
    paths = write_files(output, files)
    if as_json:
        out_json({**data, "files": [str(path) for path in paths]})
        return
    _say_groups(groups, fields)
    left_out = sum(group.left_out for group in groups)
    if left_out:
        note(f"note: left out of the rates, as no fault of the agent or interrupted: {left_out}")
    going = sum(group.in_progress for group in groups)
    if going:
        note(f"note: left out, as not ended yet: {going}")
    _say_files(paths)


async def _headers(ids: Sequence[str], batch: str | None, words: StorageWords) -> list[TraceHeader]:
    """Footers only, but for the trajectories that are named."""
    found: list[TraceHeader] = []
    if ids:
        found = [trace.header for trace in await _traces(ids, words)]
    else:
        from envoi_trace_core.trace.lookup import list_traces

        async with words.open() as storage:
            for listed in await list_traces(storage):
                if listed.header is not None:
                    found.append(listed.header)
                elif listed.error is not None:
                    warn(f"{listed.trajectory_id} is left out: {listed.error.message}")
    known = sorted({header.trajectory.batch for header in found if header.trajectory.batch})
    if batch is not None:
        found = [header for header in found if header.trajectory.batch == batch]
    if not found:
        what = f"no trajectory of batch {batch!r}.{did_you_mean(batch, known)}" if batch else "no trajectory"
        raise UsageError(what, mend=f"batches: {', '.join(known[:10])}" if known else "envoi-trace list shows all")
    return found


async def _traces(ids: Sequence[str], words: StorageWords) -> list[Trace]:
    from envoi_trace_core.cli.reading import find_trace

    return [await find_trace(word, words) for word in ids]


def _say_groups(groups: Sequence[Group], fields: Sequence[str]) -> None:
    ks = sorted({found.k for group in groups for found in group.pass_at})
    head = [", ".join(fields), "solved", "solve rate (95 %)", *(f"pass@{k}" for k in ks), "tasks", "parts", "tokens"]
    rows = []
    for group in groups:
        pass_at = {found.k: found.estimate for found in group.pass_at}
        rows.append(
            [
                group.name,
                f"{group.solved}/{group.counted}",
                _interval(group.solve_rate),
                *(_interval(pass_at.get(k)) for k in ks),
                str(group.tasks),
                "-" if group.median_parts is None else f"{group.median_parts:g}",
                f"{group.tokens:,}",
                _usd(group.cost_usd),
                _usd(group.cost_per_solve_usd),
            ]
        )
    out_table([*head, "cost", "cost per solve"], rows, right=range(1, len(head) + 2))


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.0%} ({estimate.low:.0%}-{estimate.high:.0%})"
