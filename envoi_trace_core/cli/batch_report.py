"""The end of a batch: a table, what is left and how to go on, and the same as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from envoi_trace_core.cli.output import printable, table_lines
from envoi_trace_core.run.batch.cells import Batch
from envoi_trace_core.run.batch.progress import CellProgress, Progress
from envoi_trace_core.run.batch.results import Attempt, BatchResult, TrialResult

HEAD = ("cell", "waiting", "running", "ended", "left", "solved", "failed", "infrastructure", "parts", "cost")
RIGHT = tuple(range(1, len(HEAD)))
MAX_LISTED = 20
"""Trials that are listed one by one for each reason; `--json` has all."""


def cell_words(cell: CellProgress, *, name: str | None = None) -> list[str]:
    """A row of the table."""
    counts = (cell.waiting, cell.running, cell.ended, cell.left, cell.solved, cell.failed, cell.infrastructure_failures)
    cost = "-" if cell.cost_usd is None else f"${cell.cost_usd:.2f}"
    return [name or cell.name, *(str(count or "-") for count in counts), f"{cell.parts:,}", cost]


def total_of(progress: Progress) -> CellProgress:
    """All cells together."""
    total = CellProgress(name="all", trials=0)
    for cell in progress.cells.values():
        for name in ("trials", "running", "ended", "solved", "failed", "infrastructure_failures", "left", "parts"):
            setattr(total, name, getattr(total, name) + getattr(cell, name))
        if cell.cost_usd is not None:
            total.cost_usd = (total.cost_usd or 0.0) + cell.cost_usd
    return total


def result_words(result: TrialResult) -> str:
    """How a trial ended, in one line. It may hold what an agent wrote."""
    last = result.last
    name = last.trajectory_id if last is not None else f"{result.cell}.t{result.trial}"
    if result.status != "ended" or last is None:
        return f"{name}: {result.status}" + (f", {result.message}" if result.message else "")
    words = [f"{last.reason}", f"{last.parts} parts", f"{last.solved_paths} of {last.total_paths} paths"]
    if last.cost_usd is not None:
        words.append(f"${last.cost_usd:.4f}")
    why = f": {last.message}" if result.is_failed and last.message else ""
    return f"{name}: {', '.join(words)}{why}"


def report(result: BatchResult, progress: Progress, *, again: str, say: Callable[[str], None]) -> None:
    """Tell the end."""
    rows = [cell_words(cell) for cell in progress.cells.values()]
    if len(rows) > 1:
        rows.append(cell_words(total_of(progress)))
    for line in table_lines(HEAD, rows, right=RIGHT):
        say(line)
    before = sum(trial.before for trial in result.trials)
    if before:
        say(f"{before} had ended before, and were left as they are")
    _list("failed", [trial for trial in result.trials if trial.is_failed], say)
    for status in ("refused", "held"):
        _list(status, [trial for trial in result.trials if trial.status == status], say)
    unsaved = [a.trajectory_id for trial in result.trials for a in trial.attempts if a.is_unsaved]
    for trajectory_id in unsaved[:MAX_LISTED]:
        say(f"not stored: envoi-trace upload {trajectory_id}")
    if unsaved[MAX_LISTED:]:
        say(f"  and {len(unsaved) - MAX_LISTED} more")
    _tell_what_is_left(result, again, say)


def _list(title: str, trials: list[TrialResult], say: Callable[[str], None]) -> None:
    if not trials:
        return
    say(f"{title}:")
    for trial in trials[:MAX_LISTED]:
        say(f"  {printable(result_words(trial))}")
    if len(trials) > MAX_LISTED:
        say(f"  and {len(trials) - MAX_LISTED} more")


def _tell_what_is_left(result: BatchResult, again: str, say: Callable[[str], None]) -> None:
    not_started = [trial for trial in result.trials if trial.status == "not started"]
    if not_started:
        say(f"{len(not_started)} not started: {not_started[0].message}")
    interrupted = result.count("interrupted")
    if interrupted:
        say(f"{interrupted} interrupted; what they recorded is saved")
    detached = result.count("detached")
    if detached:
        say(f"{detached} go on elsewhere: envoi-trace status ID, logs ID, stop ID")
    if not_started or interrupted or result.count("refused", "held"):
        say(f"  {again} goes on with what is left")


def summary(result: BatchResult, batch: Batch, exit_status: int) -> dict[str, Any]:
    """The same for a program."""
    trials = result.trials
    return {
        "batch": result.name,
        "exit_status": exit_status,
        "trials": len(trials),
        "ended": result.count("ended"),
        "ended_before": sum(trial.before for trial in trials),
        "solved": sum(trial.is_solved for trial in trials),
        "failed": sum(trial.is_failed for trial in trials),
        "infrastructure_failures": sum(trial.infrastructure_failures for trial in trials),
        "interrupted": result.count("interrupted"),
        "detached": result.count("detached"),
        "held": result.count("held"),
        "refused": result.count("refused"),
        "not_started": result.count("not started"),
        "parts": sum(attempt.parts for trial in trials for attempt in trial.attempts),
        "cost_usd": result.cost_usd,
        "max_total_cost_usd": batch.max_total_cost_usd,
        "cells": [
            {
                "cell": cell.name,
                "agent": cell.config.agent,
                "model": cell.config.model,
                "task": cell.config.task,
                "environment": cell.config.environment,
                "trials": [_trial(trial) for trial in trials if trial.cell == cell.name],
            }
            for cell in batch.cells
        ],
    }


def _trial(trial: TrialResult) -> dict[str, Any]:
    return {
        "trial": trial.trial,
        "status": trial.status,
        "message": trial.message,
        "ended_before": trial.before,
        "cost_usd": trial.cost_usd,
        "attempts": [_attempt(attempt) for attempt in trial.attempts],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    shown = (
        "trajectory_id", "reason", "message", "parts", "turns", "solved_paths", "total_paths", "best_share", "cost_usd",
    )  # fmt: skip
    return {name: getattr(attempt, name) for name in shown}
