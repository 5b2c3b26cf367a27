"""A snapshot of a trace to the bytes of `trace.parquet`: each time a whole, valid file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from envoi_trace_core.trace.convert import constant_columns, part_columns, testing_state_column
from envoi_trace_core.trace.convert_facts import value_to_json
from envoi_trace_core.trace.rows import RecordedPart, Snapshot
from envoi_trace_core.trace.schema import (
    CONSTANT_COLUMNS,
    END_KEY,
    REPEATING_COLUMNS,
    SCHEMA_VERSION,
    SUMMARY_KEY,
    TRAJECTORY_KEY,
    VERSION_KEY,
    trace_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_ROWS = 256
_ROW_GROUP_ROWS = 20_000
_COMPRESSION = "zstd"
_COMPRESSION_LEVEL = 1
"""Speed counts: the file is written anew all the time, and higher levels gain a few per cent."""


@attrs.define
class TraceEncoder:
    """Encodes snapshots of one trajectory, one after another; rows that did not change are kept as Arrow."""

    _chunks: list[tuple[tuple[RecordedPart, ...], pa.RecordBatch]] = attrs.field(factory=list)

    def encode(self, snapshot: Snapshot) -> bytes:
        """The whole file. Not to be called in two threads at once."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = trace_schema().with_metadata({VERSION_KEY: SCHEMA_VERSION})
        table = self.table(snapshot).replace_schema_metadata(schema.metadata)
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(
            sink,
            schema,
            compression=_COMPRESSION,
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=[*(name for name in CONSTANT_COLUMNS if name != "labels"), *REPEATING_COLUMNS],
            write_page_checksum=True,
        ) as writer:
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
            # Not in the Arrow schema, of which the footer holds a second copy.
            writer.add_key_value_metadata(header_metadata(snapshot))
        data: bytes = sink.getvalue().to_pybytes()
        return data

    def table(self, snapshot: Snapshot) -> pa.Table:
        """The snapshot as Arrow, in the schema's order, without metadata."""
        import pyarrow as pa

        schema = trace_schema()
        count = len(snapshot.parts)
        batches = self._batches(snapshot.parts)
        parts = pa.Table.from_batches(batches) if batches else pa.Table.from_batches([part_columns([])])
        columns = {name: parts.column(name) for name in parts.column_names}
        columns |= constant_columns(snapshot.trajectory, snapshot.end, count)
        columns["testing_state"] = testing_state_column(snapshot.testing_states)
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def _batches(self, parts: Sequence[RecordedPart]) -> list[pa.RecordBatch]:
        for number, chunk in enumerate(itertools.batched(parts, _CHUNK_ROWS)):
            # Rows are immutable: one that changed is another object, and equal ones compare by identity first.
            if number < len(self._chunks) and self._chunks[number][0] == chunk:
                continue
            self._chunks[number : number + 1] = [(chunk, part_columns(chunk))]
        del self._chunks[-(-len(parts) // _CHUNK_ROWS) :]
        return [batch for _, batch in self._chunks]


def header_metadata(snapshot: Snapshot) -> dict[bytes, bytes]:
    """What stands in the file's key-value metadata beside the schema's version."""
    return {
        TRAJECTORY_KEY: value_to_json(snapshot.trajectory).encode(),
        END_KEY: value_to_json(snapshot.end).encode(),
        SUMMARY_KEY: value_to_json(snapshot.summary).encode(),
    }


def encode_trace(snapshot: Snapshot) -> bytes:
    """The bytes of `trace.parquet` for one snapshot."""
    return TraceEncoder().encode(snapshot)
