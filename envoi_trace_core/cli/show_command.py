"""`envoi-trace show`: one trajectory, or one part of it whole."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from envoi_trace_core.cli.list_command import reason_of, reason_style
from envoi_trace_core.cli.output import (
    Cell,
    Style,
    age,
    duration,
    out,
    out_fields,
    out_json,
    out_table,
    printable,
    printable_block,
    styled,
)
from envoi_trace_core.cli.reading import (
    AsJson,
    StorageName,
    StorageOpts,
    StorageWords,
    TrajectoryWord,
    find_trace,
    row_of_part,
    run_async,
)

if TYPE_CHECKING:
    from envoi_trace_core.domain.parts import EnvoiCall, Part, TestCounts, TokenUsage
    from envoi_trace_core.trace.reader import Trace
    from envoi_trace_core.trace.rows import TraceRow


def show(
    trajectory: TrajectoryWord,
    part: Annotated[int | None, typer.Option(help="This part whole.", metavar="N")] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
    json: AsJson = False,
) -> None:
    """Show a trajectory: a header, then its parts, one line each. `--part N` shows one part whole."""
    words = StorageWords.of(storage, storage_opt)
    trace = run_async(lambda: find_trace(trajectory, words))
    if part is not None:
        row = row_of_part(trace, part)
        if json:
            out_json(_row_json(row))
        else:
            _part_whole(row)
    elif json:
        out_json(_trace_json(trace))
    else:
        _header(trace)
        _parts(trace)


# -- a whole trajectory ---------------------------------------------------------------------------


def _header(trace: Trace) -> None:
    trajectory, summary, reason = trace.trajectory, trace.summary, reason_of(trace.header)
    out(styled(printable(trajectory.trajectory_id), "bold"))
    out_fields(
        [
            ("agent", _words(trajectory.agent, trajectory.agent_version)),
            ("model", trajectory.model),
            ("task", _words(trajectory.task, trajectory.task_params if trajectory.task_params != "{}" else None)),
            ("environment", trajectory.environment),
            ("sandbox", trajectory.sandbox),
            ("forked from", _forked(trace)),
            ("labels", ", ".join(f"{key}={value}" for key, value in trajectory.labels.items()) or None),
            ("started", f"{_moment(trajectory.started_at)} ({age(trajectory.started_at)} ago{_took(trace)})"),
            ("reason", Cell(reason, reason_style(reason))),
            ("message", trace.end.message if trace.end is not None else None),
            ("parts", f"{summary.parts} in {summary.turns} turn{'' if summary.turns == 1 else 's'}"),
            ("solved", f"{summary.solved_paths}/{summary.total_paths} paths, best commit {summary.best_share:.0%}"),
            ("tokens", _tokens(summary.token_usage)),
            ("cost", None if summary.cost_usd is None else f"${summary.cost_usd:.4f}"),
            ("unparsed", _unparsed(summary.unparsed_events)),
        ]
    )


def _unparsed(count: int) -> Cell:
    return Cell(f"{count} event{'' if count == 1 else 's'}", "yellow" if count else None)


def _words(*words: str | None) -> str:
    return " ".join(filter(None, words))


def _forked(trace: Trace) -> str | None:
    trajectory = trace.trajectory
    return f"{trajectory.forked_from} at part {trajectory.forked_at_part}" if trajectory.forked_from else None


def _took(trace: Trace) -> str:
    last = trace.end.at if trace.end is not None else trace.summary.last_at
    return f", took {duration((last - trace.trajectory.started_at).total_seconds())}" if last is not None else ""


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _tokens(usage: TokenUsage | None) -> str | None:
    if usage is None or not usage.total:
        return None
    words = [f"{usage.input:,} in"]
    if usage.cached_input:
        words.append(f"{usage.cached_input:,} of it cached")
    words.append(f"{usage.output:,} out")
    if usage.reasoning:
        words.append(f"{usage.reasoning:,} of it reasoning")
    return f"{usage.total:,} ({', '.join(words)})"


def _parts(trace: Trace) -> None:
    if not trace.rows:
        return
    out()
    out_table(
        ["part", "turn", "type", "tool", "status", "commit", "tests", "summary"],
        (_part_cells(row) for row in trace.rows),
        right=(0, 1),
    )


def _part_cells(row: TraceRow) -> list[str | Cell]:
    part = row.part
    made = part.repo_checkpoint is not None
    return [
        str(part.part),
        str(part.turn),
        part.part_type,
        part.tool_name or "",
        _status(part),
        # Only the part that changed something shows its commit strongly: the eye finds the changes.
        Cell((part.git_commit or "")[:8], None if made else "dim"),
        _tests(row),
        _summary(part),
    ]


def _status(part: Part) -> Cell:
    if part.tool_exit_code is not None:
        return Cell(f"exit {part.tool_exit_code}", "red" if part.tool_exit_code else "green")
    styles: dict[str, Style] = {"completed": "green", "failed": "red", "interrupted": "yellow"}
    status = part.tool_status or ""
    return Cell(status, styles.get(status))


def _tests(row: TraceRow) -> Cell:
    """What a call of the agent gave; else what the evaluation of the part's commit gave."""
    if row.part.envoi_calls:
        call = row.part.envoi_calls[-1]
        return _counts(call.counts) if call.status_code == 200 else Cell(_call_failure(call), "red")
    if row.evaluation is None:
        return Cell("")
    if row.evaluation.status == "completed":
        return _counts(row.evaluation.counts)
    return Cell(row.evaluation.status.replace("_", " "), "red")


def _call_failure(call: EnvoiCall) -> str:
    return "build failed" if call.status_code == 422 else f"status {call.status_code}"


def _counts(counts: TestCounts) -> Cell:
    return Cell(f"{counts.passed}/{counts.total}", "green" if counts.all_passed else "yellow")


def _summary(part: Part) -> str:
    text = part.summary or part.content or part.tool_input or ""
    return printable(text[:400])


# -- one part -------------------------------------------------------------------------------------


def _part_whole(row: TraceRow) -> None:
    part = row.part
    title = _words(f"part {part.part}", f"turn {part.turn}", part.part_type, part.tool_name)
    out(styled(printable(title), "bold"))
    took = "" if part.duration_ms is None else f", took {duration(part.duration_ms / 1000)}"
    checkpoint = part.repo_checkpoint
    out_fields(
        [
            ("summary", part.summary or None),
            ("time", f"{_moment(part.timestamp)}{took}"),
            ("session", part.session_id),
            ("event", f"{part.event_index}{f' ({part.item_type})' if part.item_type else ''}"),
            ("status", _status(part) if part.tool_status or part.tool_exit_code is not None else None),
            ("commit", part.git_commit),
            ("before", checkpoint.commit_before if checkpoint is not None else None),
            ("tokens", _tokens(row.token_usage)),
            ("cost", None if row.cost_usd is None else f"${row.cost_usd:.6f}"),
            ("solved", f"{row.testing_state.solved_paths}/{row.testing_state.total_paths} paths by then"),
        ]
    )
    if checkpoint is not None:
        _block("files", "\n".join(_changed_files(row)))
    _block("prompt of the turn", row.turn_prompt)
    _block("content", part.content)
    _block("tool input", _pretty(part.tool_input))
    _block("tool output", part.tool_output)
    _block("tool error", part.tool_error)
    _block("patch", part.patch)
    for call in part.envoi_calls:
        _block(f"run_tests {call.path or '(all)'}", "\n".join(_call_lines(call)))
    if row.evaluation is not None:
        evaluation = row.evaluation
        lines = [f"{evaluation.status}  {_counts(evaluation.counts).text} in {duration(evaluation.duration_ms / 1000)}"]
        lines += [_result_line(result.path, result.counts, result.error) for result in evaluation.results]
        _block("evaluation of its commit", "\n".join(filter(None, [*lines, evaluation.error])))


def _block(title: str, text: str | None) -> None:
    if text:
        out(f"\n{styled(printable(title), 'cyan')}")
        out(printable_block(text).rstrip("\n"))


def _changed_files(row: TraceRow) -> Iterable[str]:
    checkpoint = row.part.repo_checkpoint
    if checkpoint is None:
        return
    for file in checkpoint.changed_files:
        lines = "binary" if file.additions is None else f"+{file.additions} -{file.deletions or 0}"
        yield f"{file.status:<12} {lines:<12} {printable(file.path)}"
    for path in checkpoint.skipped_files:
        yield f"{'skipped':<12} {'too large':<12} {printable(path)}"


def _pretty(text: str | None) -> str | None:
    """JSON text for a reader: a lone command as it is, anything else indented."""
    if text is None:
        return None
    try:
        value = json_module.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict) and len(value) == 1 and all(isinstance(item, str) for item in value.values()):
        return "".join(f"{key}: {item}" for key, item in value.items())
    return json_module.dumps(value, indent=2, ensure_ascii=False)


def _call_lines(call: EnvoiCall) -> Iterable[str]:
    took = duration(call.duration_ms / 1000)
    yield f"{_counts(call.counts).text} passed, status {call.status_code}, {took}, commit {call.commit or '-'}"
    if call.error:
        yield call.error
    for result in call.results:
        yield _result_line(result.path, result.counts, result.error)


def _result_line(path: str, counts: TestCounts, error: str | None) -> str:
    return f"  {_counts(counts).text:>7}  {path}{f'  {printable(error)}' if error else ''}"


# -- JSON -----------------------------------------------------------------------------------------


def _trace_json(trace: Trace) -> dict[str, Any]:
    return {
        **attrs.asdict(trace.trajectory),
        "session_end_reason": trace.end.reason if trace.end is not None else None,
        "end": attrs.asdict(trace.end) if trace.end is not None else None,
        "summary": {**attrs.asdict(trace.summary), "total_paths": trace.summary.total_paths},
        "unparsed_events": trace.summary.unparsed_events,
        "parts": [_row_json(row) for row in trace.rows],
    }


def _row_json(row: TraceRow) -> dict[str, Any]:
    """The columns of the row that are the part's own."""
    return {
        **attrs.asdict(row.part),
        "turn_prompt": row.turn_prompt,
        "token_usage": attrs.asdict(row.token_usage) if row.token_usage is not None else None,
        "cost_usd": row.cost_usd,
        "evaluation": attrs.asdict(row.evaluation) if row.evaluation is not None else None,
        "testing_state": attrs.asdict(row.testing_state),
    }
