"""What a run says of itself, in plain lines: the display and the log show the same."""

from __future__ import annotations

from envoi_trace_core.domain.facts import EvaluationRecorded, Fact, PartRecorded, TurnBegun
from envoi_trace_core.domain.parts import Evaluation, Part
from envoi_trace_core.trace.fold import TraceState

SUMMARY_CHARS = 72


def progress_line(fact: Fact, state: TraceState) -> str | None:
    """One line about a fact that a person would want to see; None for others. It may hold what an agent wrote."""
    match fact:
        case TurnBegun():
            return f"-- turn {fact.turn}"
        case PartRecorded(part=part):
            return part_line(part)
        case EvaluationRecorded(evaluation=evaluation):
            return _evaluation_line(evaluation, state)
        case _:
            return None


def part_line(part: Part) -> str:
    """Its number, what it was, what came of it, and the beginning of its summary."""
    name = f"{part.part_type} {part.tool_name}" if part.tool_name else part.part_type
    marks = ""
    if part.tool_exit_code:
        marks += f" exit {part.tool_exit_code}"
    if part.repo_checkpoint is not None:
        marks += f" [{part.repo_checkpoint.commit_after[:8]}]"
    for call in part.envoi_calls:
        marks += f" {call.counts.passed}/{call.counts.total} passed"
    return f"{part.part:>5} {name:<18}{marks} {_one_line(part.summary)}"


def _evaluation_line(evaluation: Evaluation, state: TraceState) -> str:
    what = f"{evaluation.counts.passed}/{evaluation.counts.total} passed"
    if evaluation.status != "completed":
        what = f"{evaluation.status}: {_one_line(evaluation.error or '')}"
    part = state.part_of_commit(evaluation.commit)
    where = "the start" if part is None else f"part {part}"
    return f"      evaluation of {where} [{evaluation.commit[:8]}] {what}"


def _one_line(text: str) -> str:
    return " ".join(text[: 4 * SUMMARY_CHARS].split())[:SUMMARY_CHARS]
