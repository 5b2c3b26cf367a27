"""Rows to Arrow and back.

What stands in a row comes out of a sandbox: text that is no Unicode and numbers that fit no column are mended, never
refused, since a part that can't be written would hold back every part after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from envoi_trace_core.domain.facts import TrajectoryEnded
from envoi_trace_core.domain.parts import Part, Trajectory
from envoi_trace_core.trace import nested
from envoi_trace_core.trace.rows import RecordedPart, TestingState, TraceRow
from envoi_trace_core.trace.schema import CONSTANT_COLUMNS, trace_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TraceRow", "constant_columns", "part_columns", "rows_of", "testing_state_column"]

_PLAIN_COLUMNS = (
    "part", "turn", "session_id", "timestamp", "duration_ms", "event_index", "role", "part_type", "item_type",
    "summary", "content", "tool_name", "tool_status", "tool_input", "tool_output", "tool_error", "tool_exit_code",
    "git_commit", "patch",
)  # fmt: skip
"""Columns that are fields of `Part` by the same name."""

_OTHER_COLUMNS: Mapping[str, Callable[[RecordedPart], Any]] = {
    "turn_prompt": lambda row: row.turn_prompt,
    "token_usage": lambda row: nested.usage_struct(row.token_usage),
    "cost_usd": lambda row: row.cost_usd,
    "repo_checkpoint": lambda row: nested.checkpoint_struct(row.part.repo_checkpoint),
    "envoi_calls": lambda row: [nested.call_struct(call) for call in row.part.envoi_calls],
    "evaluation": lambda row: nested.evaluation_struct(row.evaluation),
}

PART_COLUMNS = (*_PLAIN_COLUMNS, *_OTHER_COLUMNS)
"""What depends on the part alone, so that it is made once."""


def part_columns(rows: Sequence[RecordedPart]) -> pa.RecordBatch:
    """The columns `PART_COLUMNS` of some rows."""
    import pyarrow as pa

    schema = trace_schema()
    columns = {name: [getattr(row.part, name) for row in rows] for name in _PLAIN_COLUMNS}
    columns |= {name: [make(row) for row in rows] for name, make in _OTHER_COLUMNS.items()}
    arrays = [_array(columns[name], schema.field(name).type) for name in PART_COLUMNS]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([schema.field(name) for name in PART_COLUMNS]))


def testing_state_column(states: Sequence[TestingState]) -> pa.Array:
    """The column `testing_state`."""
    import pyarrow as pa

    column_type = trace_schema().field("testing_state").type
    fields = [column_type.field(index) for index in range(column_type.num_fields)]
    arrays = [_array([getattr(state, field.name) for state in states], field.type) for field in fields]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def constant_columns(trajectory: Trajectory, end: TrajectoryEnded | None, row_count: int) -> dict[str, pa.Array]:
    """The columns that are the same in every row."""
    return {
        name: _repeated(value, trace_schema().field(name).type, row_count)
        for name, value in zip(CONSTANT_COLUMNS, _constants(trajectory, end), strict=True)
    }


def _constants(trajectory: Trajectory, end: TrajectoryEnded | None) -> Iterator[Any]:
    for name in CONSTANT_COLUMNS:
        if name == "labels":
            yield list(trajectory.labels.items())
        elif not name.startswith("session_end_"):
            yield getattr(trajectory, name)
        else:
            yield getattr(end, name.removeprefix("session_end_")) if end is not None else None


def _repeated(value: Any, column_type: pa.DataType, row_count: int) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_dictionary(column_type):
        index = None if value is None else 0
        indices = pa.repeat(pa.scalar(index, pa.int32()), row_count)
        values = [] if value is None else [value]
        return pa.DictionaryArray.from_arrays(indices, _array(values, pa.string()))
    if pa.types.is_map(column_type):
        return _array([value], column_type).take(pa.repeat(pa.scalar(0, pa.int32()), row_count))
    return pa.repeat(_array([value], column_type)[0], row_count)


def _array(values: Sequence[Any], column_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, column_type)
    except (UnicodeEncodeError, OverflowError, pa.ArrowInvalid):
        return pa.array([_mended(value, column_type) for value in values], column_type)


def _mended(value: Any, column_type: pa.DataType) -> Any:
    """The value with what no column can hold replaced: lone surrogates, and integers beyond their type."""
    import pyarrow as pa

    match value:
        case None:
            return None
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case int() if pa.types.is_integer(column_type):
            bound = 1 << column_type.bit_width - 1
            return max(-bound, min(value, bound - 1))
        case Mapping():
            return {name: _mended(item, column_type.field(name).type) for name, item in value.items()}
        case list() if pa.types.is_map(column_type):
            return [(_mended(key, pa.string()), _mended(item, pa.string())) for key, item in value]
        case list():
            return [_mended(item, column_type.value_type) for item in value]
        case _:
            return value


# -- back -------------------------------------------------------------------------------------------


def rows_of(table: pa.Table) -> Iterator[TraceRow]:
    """The rows of a table that has the columns of `trace_schema`."""
    wanted = [name for name in (*PART_COLUMNS, "testing_state") if name in table.column_names]
    for batch in table.select(wanted).to_batches(max_chunksize=1024):
        columns = {name: batch.column(name).to_pylist() for name in wanted}
        missing = {name: [None] * batch.num_rows for name in (*PART_COLUMNS, "testing_state") if name not in columns}
        columns |= missing
        for index in range(batch.num_rows):
            yield _row_of({name: values[index] for name, values in columns.items()})


def _row_of(values: dict[str, Any]) -> TraceRow:
    checkpoint = nested.checkpoint_of(values["repo_checkpoint"])
    calls = tuple(
        nested.call_of(call, call_id=f"part-{values['part']}-{number}")
        for number, call in enumerate(values["envoi_calls"] or (), 1)
    )
    commit = checkpoint.commit_after if checkpoint is not None else values["git_commit"] or ""
    return TraceRow(
        part=Part(
            **{name: values[name] for name in _PLAIN_COLUMNS},
            repo_checkpoint=checkpoint,
            envoi_calls=calls,
        ),
        turn_prompt=values["turn_prompt"],
        token_usage=nested.usage_of(values["token_usage"]),
        cost_usd=values["cost_usd"],
        evaluation=nested.evaluation_of(values["evaluation"], commit),
        testing_state=nested.testing_state_of(values["testing_state"]),
    )
