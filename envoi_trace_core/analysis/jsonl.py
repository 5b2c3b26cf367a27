"""A trace as lines of JSON, and back: nothing of `trace.parquet` is lost.

    {"format": "envoi-trace", "schema_version": "1.0", "trajectory": {...}, "summary": {...}, "end": {...}}
    {"part": 1, "turn": 1, "part_type": "reasoning", ...}

The first line holds what is true of the whole trajectory. Each further one is a row of `trace.parquet`: its columns by
their names, less those that are the same in every row, and less those that are null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from envoi_trace_core.domain.facts import TrajectoryEnded
from envoi_trace_core.domain.parts import PART_TYPES, Trajectory
from envoi_trace_core.errors import TraceFormatError
from envoi_trace_core.ids import check_trajectory_id
from envoi_trace_core.trace.convert import PART_COLUMNS, rows_of
from envoi_trace_core.trace.convert_facts import value_from_json, value_to_json
from envoi_trace_core.trace.reader import Trace
from envoi_trace_core.trace.rows import Snapshot, TraceRow, TraceSummary
from envoi_trace_core.trace.schema import SCHEMA_VERSION, trace_schema

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "envoi-trace"
BATCH_ROWS = 256
MAX_LINE_CHARS = 256 * 1024 * 1024
MAX_PARTS = 10_000_000
_ROW_COLUMNS = (*PART_COLUMNS, "testing_state")
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


# -- out --------------------------------------------------------------------------------------------


def to_jsonl(trace: Trace) -> Iterator[str]:
    """The lines of a trace, without line ends."""
    header = {
        "format": FORMAT,
        "schema_version": trace.header.schema_version,
        "trajectory": json.loads(value_to_json(trace.trajectory)),
        "summary": json.loads(value_to_json(trace.summary)),
        "end": json.loads(value_to_json(trace.end)),
    }
    yield _line(header)
    for batch in trace.table.select([name for name in _ROW_COLUMNS if name in trace.table.column_names]).to_batches(
        max_chunksize=BATCH_ROWS
    ):
        for row in batch.to_pylist():
            yield _line({name: value for name, value in row.items() if value is not None})


def _line(values: dict[str, Any]) -> str:
    try:
        return json.dumps(values, default=_jsonable, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:  # JSON has no such number
        values = {
            name: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        return json.dumps(values, default=_jsonable, ensure_ascii=False, separators=(",", ":"))


def _jsonable(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in a trace")


# -- and back ---------------------------------------------------------------------------------------


def from_jsonl(lines: Iterable[str]) -> Snapshot:
    """What `encode_trace` makes the same `trace.parquet` of.

    Args:
        lines: As `to_jsonl` gives them. They may come from anywhere: all of it is checked.

    Raises:
        TraceFormatError: A line is none of a trace: which, and why.
        UsageError: The id of the trajectory can't be one.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    trajectory, summary, end = _header(*next(numbered, (1, "")))
    batches = list(_batches(numbered))
    rows = [row for batch in batches for row in _checked_rows(batch)]
    numbers = [row.part.part for row in rows]
    if any(after <= before for before, after in zip([0, *numbers], numbers, strict=False)):
        raise TraceFormatError("the parts are not in their order: each has a higher number than the one before it")
    if len(rows) != summary.parts:
        raise TraceFormatError(f"the first line tells of {summary.parts} parts, and {len(rows)} follow: it is cut")
    return Snapshot(
        trajectory=trajectory,
        summary=summary,
        end=end,
        parts=tuple(row.recorded for row in rows),
        testing_states=tuple(row.testing_state for row in rows),
    )


def _header(number: int, line: str) -> tuple[Trajectory, TraceSummary, TrajectoryEnded | None]:
    header = _object(number, line)
    if header.get("format") != FORMAT:
        raise TraceFormatError(
            f'line {number} is not the first one of an exported trace: it has no "format": "{FORMAT}"',
            mend="envoi-trace export ID --format jsonl writes such files; --format NAME of import is a part parser's",
        )
    version = str(header.get("schema_version"))
    major = version.partition(".")[0]
    if not major.isdecimal() or int(major) > int(SCHEMA_VERSION.partition(".")[0]):
        raise TraceFormatError(
            f"it has schema version {version:.40}, and this envoi-trace reads up to {SCHEMA_VERSION}",
            mend="pip install --upgrade envoi-trace",
        )
    try:
        trajectory = value_from_json(json.dumps(header["trajectory"]), Trajectory)
        summary = value_from_json(json.dumps(header["summary"]), TraceSummary)
        end = value_from_json(json.dumps(header["end"]), TrajectoryEnded | None)  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError) as error:
        raise TraceFormatError(f"line {number} is damaged: {error!s:.200}") from error
    check_trajectory_id(trajectory.trajectory_id)
    return trajectory, summary, end


def _batches(lines: Iterator[tuple[int, str]]) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    first = 0
    for number, line in lines:
        if number > MAX_PARTS:
            raise TraceFormatError(f"it has more than {MAX_PARTS} lines")
        first = first or number
        rows.append(_moments(number, _object(number, line)))
        if len(rows) == BATCH_ROWS:
            yield _table(rows, first)
            rows, first = [], 0
    if rows:
        yield _table(rows, first)


def _table(rows: list[dict[str, Any]], first: int) -> pa.Table:
    import pyarrow as pa

    schema = trace_schema()
    try:
        return pa.table(
            {name: pa.array([row.get(name) for row in rows], schema.field(name).type) for name in _ROW_COLUMNS}
        )
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if len(rows) > 1:
            for at, row in enumerate(rows):
                _table([row], first + at)
        raise TraceFormatError(f"line {first} is no part: {error!s:.200}") from error


def _checked_rows(table: pa.Table) -> list[TraceRow]:
    for name in ("part", "turn", "session_id", "timestamp", "event_index", "part_type"):
        if table.column(name).null_count:
            raise TraceFormatError(f"a part has no {name!r}")
    for part_type in set(table.column("part_type").to_pylist()) - set(PART_TYPES):
        raise TraceFormatError(f"{part_type!r:.40} is no type of a part", mend=f"one of {', '.join(PART_TYPES)}")
    try:
        rows = list(rows_of(table))
    except (TypeError, ValueError, KeyError) as error:
        raise TraceFormatError(f"a part is damaged: {error!s:.200}") from error
    for row in rows:
        tested = [*row.part.envoi_calls, *([row.evaluation, *row.evaluation.results] if row.evaluation else ())]
        if any(None in attrs.astuple(each.counts) for each in tested):
            raise TraceFormatError(f"part {row.part.part} is damaged: its tests have no counts")
    return rows


def _moments(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """The row with its texts of moments as moments, and of numbers that JSON lacks as numbers."""
    try:
        if "timestamp" in row:
            row["timestamp"] = _moment(row["timestamp"])
        for call in row.get("envoi_calls") or ():
            if call.get("timestamp") is not None:
                call["timestamp"] = _moment(call["timestamp"])
        if isinstance(row.get("cost_usd"), str):
            row["cost_usd"] = _NOT_FINITE[row["cost_usd"]]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise TraceFormatError(f"line {number} is no part: {error!s:.200}") from error
    return row


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r:.40} has no time zone")
    return moment


def _object(number: int, line: str) -> dict[str, Any]:
    if len(line) > MAX_LINE_CHARS:
        raise TraceFormatError(f"line {number} is longer than {MAX_LINE_CHARS} characters")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceFormatError(f"line {number} is no JSON: {error!s:.100}") from None
    if not isinstance(value, dict):
        raise TraceFormatError(f"line {number} is no JSON object")
    return value
