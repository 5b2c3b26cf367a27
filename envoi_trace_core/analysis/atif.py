"""A trace in ATIF, Harbor's Agent Trajectory Interchange Format, version 1.8.

Source of the format: `harbor.models.trajectories` of the distribution `harbor`. Unknown keys are forbidden there; what
it has no place for stands in `extra.envoi`, of the root and of each step.

The parts of one model response become one step. A response's token usage stands on its last part, so the parts since
the usage before it, within one turn and session, are of that response. Parts behind the last usage of a turn have no
known bounds: each is a step of its own, without `llm_call_count`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from envoi_trace_core.domain.parts import EnvoiCall, Evaluation, Part, TestCounts
from envoi_trace_core.trace.reader import Trace
from envoi_trace_core.trace.rows import TraceRow

ATIF_VERSION = "ATIF-v1.8"
_CALL_TYPES = ("tool", "tool_use", "patch")


def to_atif(trace: Trace) -> dict[str, Any]:
    """The whole trace as one JSON object."""
    trajectory, summary = trace.trajectory, trace.summary
    steps = [_without_none({"step_id": number, **step}) for number, step in enumerate(_steps(trace), 1)]
    usage = summary.token_usage
    return _without_none(
        {
            "schema_version": ATIF_VERSION,
            "session_id": summary.session_ids[0] if summary.session_ids else None,
            "trajectory_id": trajectory.trajectory_id,
            "agent": _without_none(
                {
                    "name": trajectory.agent,
                    "version": trajectory.agent_version or "unknown",
                    "model_name": trajectory.model,
                }
            ),
            "steps": steps,
            "final_metrics": _without_none(
                {
                    "total_prompt_tokens": usage.input,
                    "total_completion_tokens": usage.output,
                    "total_cached_tokens": usage.cached_input,
                    "total_cost_usd": summary.cost_usd,
                    "total_steps": len(steps),
                }
            ),
            "extra": {"envoi": _root_extra(trace)},
        }
    )


def _root_extra(trace: Trace) -> dict[str, Any]:
    summary, end = trace.summary, trace.end
    return {
        **{name: _json_of(value) for name, value in attrs.asdict(trace.trajectory).items()},
        "end": None if end is None else {name: _json_of(value) for name, value in attrs.asdict(end).items()},
        "parts": summary.parts,
        "turns": summary.turns,
        "session_ids": list(summary.session_ids),
        "test_paths": list(summary.test_paths),
        "solved_paths": summary.solved_paths,
        "solved_commit": summary.solved_commit,
        "best_share": summary.best_share,
        "initial_commit": summary.initial_commit,
        "unparsed_events": summary.unparsed_events,
    }


# -- steps ------------------------------------------------------------------------------------------


def _steps(trace: Trace) -> Iterator[dict[str, Any]]:
    if not trace.rows:
        # A trajectory without a step is none in ATIF; this one ended before its first part.
        reason = trace.end.reason if trace.end is not None else "in progress"
        yield {"source": "system", "message": f"No part was recorded: {reason}."}
        return
    for rows in responses(trace.rows):
        first = rows[0]
        if first.turn_prompt is not None:
            yield {
                "source": "user",
                "timestamp": None,
                "message": first.turn_prompt,
                "extra": {"envoi": {"turn": first.part.turn}},
            }
        yield _step(rows)


def responses(rows: Sequence[TraceRow]) -> Iterator[Sequence[TraceRow]]:
    """The rows of each model response, in order; rows whose response is not known one by one."""
    open_rows: list[TraceRow] = []
    for row in rows:
        if open_rows and _conversation(row) != _conversation(open_rows[-1]):
            yield from ([each] for each in open_rows)
            open_rows = []
        open_rows.append(row)
        if row.token_usage is not None:
            yield open_rows
            open_rows = []
    yield from ([each] for each in open_rows)


def _conversation(row: TraceRow) -> tuple[int, str, str]:
    return row.part.turn, row.part.session_id, _source(row.part)


def _source(part: Part) -> str:
    return part.role if part.role in ("user", "system") else "agent"


def _step(rows: Sequence[TraceRow]) -> dict[str, Any]:
    parts = [row.part for row in rows]
    source = _source(parts[0])
    extra = {"extra": {"envoi": _step_extra(rows)}}
    base = {"source": source, "timestamp": _moment(parts[-1].timestamp)}
    if source != "agent":
        words = [part.content or part.tool_output or part.summary for part in parts]
        return {**base, "message": "\n\n".join(words), **extra}
    usage, cost_usd = rows[-1].token_usage, rows[-1].cost_usd
    metrics = None
    if usage is not None or cost_usd is not None:
        metrics = _without_none(
            {
                "prompt_tokens": usage.input if usage else None,
                "completion_tokens": usage.output if usage else None,
                "cached_tokens": usage.cached_input if usage else None,
                "cost_usd": cost_usd,
                "extra": {"reasoning_tokens": usage.reasoning} if usage and usage.reasoning else None,
            }
        )
    results = list(_results(parts))
    return {
        **base,
        "message": _texts(parts, "text") or "",
        "reasoning_content": _texts(parts, "reasoning"),
        "tool_calls": [_call(part) for part in parts if part.part_type in _CALL_TYPES] or None,
        "observation": {"results": results} if results else None,
        "metrics": metrics,
        "llm_call_count": 1 if usage is not None else None,
        **extra,
    }


def _texts(parts: Iterable[Part], part_type: str) -> str | None:
    return "\n\n".join(part.content or part.summary for part in parts if part.part_type == part_type) or None


def _call(part: Part) -> dict[str, Any]:
    return {
        "tool_call_id": _call_id(part),
        "function_name": part.tool_name or part.item_type or part.part_type,
        "arguments": _arguments(part.tool_input),
    }


def _call_id(part: Part) -> str:
    return f"part-{part.part}"


def _arguments(text: str | None) -> dict[str, Any]:
    """ATIF wants an object. What an agent gave as something else stands below `input`."""
    if text is None:
        return {}
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"input": value}


def _results(parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    waiting: dict[str | None, list[Part]] = {}
    for part in parts:
        if part.part_type == "tool_use":
            waiting.setdefault(part.tool_name, []).append(part)
        elif part.part_type in ("tool", "patch", "tool_result"):
            source: Part | None = part
            if part.part_type == "tool_result":
                # A call of an earlier step can't be named.
                source = waiting[part.tool_name].pop(0) if waiting.get(part.tool_name) else None
            words = "\n".join(filter(None, [part.tool_output, part.tool_error]))
            yield _without_none(
                {
                    "source_call_id": _call_id(source) if source is not None else None,
                    "content": words or (part.content if part.part_type == "tool_result" else None),
                    "extra": {"envoi": _result_extra(part)},
                }
            )


def _result_extra(part: Part) -> dict[str, Any]:
    return {
        "part": part.part,
        "status": part.tool_status,
        "exit_code": part.tool_exit_code,
        "duration_ms": part.duration_ms,
        "test_calls": [_test_call(call) for call in part.envoi_calls],
    }


def _step_extra(rows: Sequence[TraceRow]) -> dict[str, Any]:
    last = rows[-1]
    return {
        "parts": [rows[0].part.part, last.part.part],
        "part_types": [row.part.part_type for row in rows],
        "turn": last.part.turn,
        "session_id": last.part.session_id,
        "commit": last.part.git_commit,
        "commits": [_commit(row) for row in rows if row.part.repo_checkpoint is not None],
        "solved_paths": last.testing_state.solved_paths,
        "total_paths": last.testing_state.total_paths,
    }


def _commit(row: TraceRow) -> dict[str, Any]:
    checkpoint = row.part.repo_checkpoint
    assert checkpoint is not None
    return {
        "part": row.part.part,
        "commit": checkpoint.commit_after,
        "before": checkpoint.commit_before,
        "changed_files": [attrs.asdict(file) for file in checkpoint.changed_files],
        "evaluation": None if row.evaluation is None else _evaluation(row.evaluation),
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "status": evaluation.status,
        **_counts(evaluation.counts),
        "duration_ms": evaluation.duration_ms,
        "suites": [{"path": result.path, **_counts(result.counts)} for result in evaluation.results],
        "error": evaluation.error,
    }


def _test_call(call: EnvoiCall) -> dict[str, Any]:
    return {
        "path": call.path,
        "commit": call.commit,
        "timestamp": _moment(call.timestamp),
        "duration_ms": call.duration_ms,
        "status_code": call.status_code,
        "error": call.error,
        **_counts(call.counts),
    }


def _counts(counts: TestCounts) -> dict[str, int]:
    return {"passed": counts.passed, "failed": counts.failed, "total": counts.total}


def _json_of(value: Any) -> Any:
    return _moment(value) if isinstance(value, datetime) else dict(value) if isinstance(value, Mapping) else value


def _moment(moment: datetime) -> str:
    return moment.isoformat()


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
