"""`report.html`: a trajectory as one page that opens without a network.

The page holds an index of all parts (one short line each) and their contents in blocks, which it unpacks when they
are looked at. Long texts are cut, the more the larger the trajectory is; the page says so where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC
from itertools import batched
from typing import Any

import attrs

from envoi_trace_core.analysis.charts import nothing_to_show, panels_of
from envoi_trace_core.analysis.curves import Progress, known_cost
from envoi_trace_core.analysis.graph_data import graph_data
from envoi_trace_core.analysis.report_page import DataBlock, page_bytes
from envoi_trace_core.cli.output import printable
from envoi_trace_core.domain.parts import EnvoiCall, Evaluation, Part
from envoi_trace_core.trace.reader import Trace
from envoi_trace_core.trace.rows import TraceRow

BLOCK_PARTS = 50
SUMMARY_CHARS = 160
PROMPT_CHARS = 300
TEXT_LIMITS = (40_000, 12_000, 4_000, 1_200, 300)
"""Characters of one text. The first that keeps all texts within the budget is taken, else the last."""
BUDGET_CHARS = 60_000_000

_BODY = """
<ul class="facts" id="facts"></ul>
<section id="curves"><div class="bar"><h2>Passed tests</h2></div>
<div class="chart" id="chart"></div><div class="panels" id="panels" hidden></div>
<p class="note">Click a point to see its part. Between two evaluations the last result holds.</p></section>
<section id="parts"><div class="bar" id="filters"><h2>Parts</h2></div>
<div class="work"><div class="list" id="list" tabindex="0" role="listbox" aria-label="parts"></div>
<div class="detail" id="detail"></div></div></section>
"""


def report_bytes(trace: Trace, progress: Progress) -> bytes:
    """The page."""
    trajectory = trace.trajectory
    agent = " ".join(filter(None, (trajectory.agent, trajectory.agent_version, trajectory.model)))
    limit = text_limit(trace.rows)
    return page_bytes(
        title=f"{trajectory.agent} on {trajectory.task}",
        subtitle=f"{trajectory.trajectory_id} · {agent} · environment {trajectory.environment} · "
        f"sandbox {trajectory.sandbox} · {trajectory.started_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        body=_BODY,
        styles=("base.css", "report.css"),
        scripts=("base.js", "chart.js", "detail.js", "report.js"),
        blocks=[
            DataBlock(value=_index(trace, progress), element_id="index"),
            *(
                DataBlock(value=[_whole(row, limit) for row in rows], css_class="block")
                for rows in batched(trace.rows, BLOCK_PARTS)
            ),
        ],
    )


def text_limit(rows: Sequence[TraceRow], budget_chars: int = BUDGET_CHARS) -> int:
    """How many characters of each text the page may hold."""
    lengths = [len(text) for row in rows for _, text in _texts(row) if text]
    for limit in TEXT_LIMITS:
        if sum(min(length, limit) for length in lengths) <= budget_chars:
            return limit
    return TEXT_LIMITS[-1]


# -- the index -------------------------------------------------------------------------------------


def _index(trace: Trace, progress: Progress) -> dict[str, Any]:
    suites = list(progress.suite_totals)
    number_of = {suite: number for number, suite in enumerate(suites)}
    summary = trace.summary
    return {
        "head": {
            "trajectory_id": trace.trajectory.trajectory_id,
            "reason": progress.end_reason,
            "message": trace.end.message if trace.end is not None else None,
            "turns": summary.turns,
            "solved_paths": summary.solved_paths,
            "tokens": summary.token_usage.total,
            "tokens_cached": summary.token_usage.cached_input,
            "cost_usd": progress.end.cost_usd,
            "sessions": len(summary.session_ids),
            "unparsed_events": summary.unparsed_events,
            "nothing": None if progress.points else nothing_to_show(progress),
            "panels": [
                [name, [number_of[suite] for suite in of]] for name, of in panels_of(progress.suite_totals).items()
            ],
        },
        "graph": graph_data(trace, progress),
        "block_parts": BLOCK_PARTS,
        "prompts": {row.part.turn: printable(row.turn_prompt[:PROMPT_CHARS]) for row in trace.rows if row.turn_prompt},
        "rows": _columns(trace),
    }


def _columns(trace: Trace) -> dict[str, list[Any]]:
    rows = trace.rows
    began_at = trace.trajectory.started_at
    return {
        "type": [row.part.part_type for row in rows],
        "turn": [row.part.turn for row in rows],
        "tool": [row.part.tool_name or "" for row in rows],
        "summary": [_line(row.part) for row in rows],
        "status": [_status(row.part) for row in rows],
        "bad": [int(_is_bad(row)) for row in rows],
        "passed": [int(_all_passed(row)) for row in rows],
        "commit": [row.part.repo_checkpoint.commit_after[:8] if row.part.repo_checkpoint else 0 for row in rows],
        "tests": [_tests(row) for row in rows],
        "at": [round(max(0.0, (row.part.timestamp - began_at).total_seconds()), 1) for row in rows],
    }


def _line(part: Part) -> str:
    text = part.summary or part.content or part.tool_input or ""
    return printable(text[: SUMMARY_CHARS + 40])[:SUMMARY_CHARS]


def _status(part: Part) -> str:
    if part.tool_exit_code is not None:
        return f"exit {part.tool_exit_code}"
    return part.tool_status or ""


def _is_bad(row: TraceRow) -> bool:
    part = row.part
    failed_call = any(call.status_code >= 400 for call in part.envoi_calls)
    failed_evaluation = row.evaluation is not None and row.evaluation.status in ("build_failed", "error")
    failed_tool = bool(part.tool_exit_code) or bool(part.tool_error) or part.tool_status == "failed"
    return failed_call or failed_evaluation or failed_tool


def _all_passed(row: TraceRow) -> bool:
    if row.part.envoi_calls:
        return row.part.envoi_calls[-1].counts.all_passed
    if row.evaluation is not None:
        return row.evaluation.counts.all_passed
    return row.part.tool_exit_code == 0 or row.part.tool_status == "completed"


def _tests(row: TraceRow) -> str:
    """What a call of the agent gave; else what the evaluation of the part's commit gave."""
    if row.part.envoi_calls:
        call = row.part.envoi_calls[-1]
        if call.status_code == 200:
            return f"{call.counts.passed}/{call.counts.total}"
        return "build failed" if call.status_code == 422 else f"status {call.status_code}"
    if row.evaluation is None:
        return ""
    if row.evaluation.status == "completed":
        return f"{row.evaluation.counts.passed}/{row.evaluation.counts.total}"
    return row.evaluation.status.replace("_", " ")


# -- one part --------------------------------------------------------------------------------------


def _whole(row: TraceRow, limit: int) -> dict[str, Any]:
    part = row.part
    checkpoint = part.repo_checkpoint
    state = row.testing_state
    return {
        "summary": part.summary[:1000],
        "time": f"{part.timestamp.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "duration_s": None if part.duration_ms is None else part.duration_ms / 1000,
        "session": part.session_id,
        "commit": part.git_commit,
        "usage": attrs.asdict(row.token_usage) if row.token_usage is not None else None,
        "cost_usd": known_cost(row),
        "solved": f"{state.solved_paths} of {state.total_paths} test paths pass" if state.total_paths else None,
        "texts": [_cut(name, text, limit) for name, text in _texts(row) if text],
        "files": [
            [file.path, file.status, file.additions, file.deletions]
            for file in (checkpoint.changed_files[:200] if checkpoint is not None else ())
        ],
        "calls": [_call(call, limit) for call in part.envoi_calls],
        "evaluation": _evaluation(row.evaluation, limit) if row.evaluation is not None else None,
    }


def _texts(row: TraceRow) -> Iterable[tuple[str, str | None]]:
    yield "prompt of the turn", row.turn_prompt
    yield "content", row.part.content
    yield "tool input", row.part.tool_input
    yield "tool output", row.part.tool_output
    yield "tool error", row.part.tool_error
    yield "patch", row.part.patch


def _cut(name: str, text: str, limit: int) -> list[Any]:
    """The name, the text, and how many characters of it were left out."""
    if len(text) <= limit:
        return [name, text, 0]
    head = limit * 3 // 4
    tail = limit - head
    left = len(text) - head - tail
    return [name, f"{text[:head]}\n[... {left:,} characters left out ...]\n{text[-tail:]}", left]


def _call(call: EnvoiCall, limit: int) -> dict[str, Any]:
    return {
        "path": call.path,
        "status_code": call.status_code,
        "duration_s": call.duration_ms / 1000,
        "passed": call.counts.passed,
        "total": call.counts.total,
        "error": _cut("", call.error, limit)[1] if call.error else None,
    }


def _evaluation(evaluation: Evaluation, limit: int) -> dict[str, Any]:
    return {
        "status": evaluation.status,
        "duration_s": evaluation.duration_ms / 1000,
        "passed": evaluation.counts.passed,
        "total": evaluation.counts.total,
        "paths": [[result.path, result.counts.passed, result.counts.total] for result in evaluation.results[:1000]],
        "error": _cut("", evaluation.error, limit)[1] if evaluation.error else None,
    }
