"""Reads traces: whole ones as typed values and Arrow, and of many only their footers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs

from envoi_trace_core.domain.facts import TrajectoryEnded
from envoi_trace_core.domain.parts import Evaluation, Part, TokenUsage, Trajectory
from envoi_trace_core.errors import TraceFormatError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.convert import rows_of
from envoi_trace_core.trace.convert_facts import value_from_json
from envoi_trace_core.trace.encode import TraceEncoder
from envoi_trace_core.trace.footers import check_frame, quick_metadata, read_file_footer, read_footer
from envoi_trace_core.trace.line_log import Damage, storage_error
from envoi_trace_core.trace.rows import Snapshot, TraceRow, TraceSummary
from envoi_trace_core.trace.schema import (
    END_KEY,
    SCHEMA_VERSION,
    SUMMARY_KEY,
    TRAJECTORY_KEY,
    VERSION_KEY,
    trace_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa


@attrs.frozen(kw_only=True)
class TraceHeader:
    """A trace without its rows."""

    trajectory: Trajectory
    summary: TraceSummary
    end: TrajectoryEnded | None
    """None while the run goes on, or when it died."""
    schema_version: str = SCHEMA_VERSION


@attrs.define(kw_only=True)
class Trace:
    """A trajectory, as far as it was recorded."""

    header: TraceHeader
    damage: tuple[Damage, ...] = ()
    """Lines of the journal that could not be read; empty for a trace that was read from its file."""
    _load_table: Callable[[], pa.Table]
    _load_rows: Callable[[], Sequence[TraceRow]]
    _load_row: Callable[[int], TraceRow | None]
    """The row at a position, without the others; None where there is none."""

    @property
    def trajectory(self) -> Trajectory:
        """What is true of all of it."""
        return self.header.trajectory

    @property
    def summary(self) -> TraceSummary:
        """All of it in a few numbers."""
        return self.header.summary

    @property
    def end(self) -> TrajectoryEnded | None:
        """Why it ended; None while the run goes on, or when it died."""
        return self.header.end

    @property
    def total_usage(self) -> TokenUsage:
        """Tokens, over all parts."""
        return self.summary.token_usage

    @property
    def total_cost_usd(self) -> float | None:
        """None when no cost is known."""
        return self.summary.cost_usd

    @cached_property
    def table(self) -> pa.Table:
        """The rows as Arrow, with the schema of `trace.parquet`."""
        return self._load_table()

    @cached_property
    def rows(self) -> tuple[TraceRow, ...]:
        """One a part, in order."""
        return tuple(self._load_rows())

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The parts, in order."""
        return tuple(row.part for row in self.rows)

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Commit to its evaluation, in the order in which the commits were made."""
        return {row.evaluation.commit: row.evaluation for row in self.rows if row.evaluation is not None}

    @cached_property
    def commits(self) -> dict[str, int]:
        """Commit to the part that made it, in the order in which they were made."""
        commits: dict[str, int] = {}
        for part in self.parts:
            if part.repo_checkpoint is not None:
                commits.setdefault(part.repo_checkpoint.commit_after, part.part)
        return commits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what was read."""
        for name in ("table", "rows", "parts", "evaluations", "commits"):
            with suppress(AttributeError):
                delattr(self, name)

    def row(self, part: int) -> TraceRow:
        """The row of one part.

        Raises:
            KeyError: There is none.
        """
        row = self._load_row(part - 1)  # Parts are numbered from 1, without a gap.
        if row is not None and row.part.part == part:
            return row
        return {row.part.part: row for row in self.rows}[part]

    def snapshot(self) -> Snapshot:
        """What `encode_trace` writes, for a command that changes a trace (`evolve` its parts)."""
        return Snapshot(
            trajectory=self.trajectory,
            summary=self.summary,
            end=self.end,
            parts=tuple(row.recorded for row in self.rows),
            testing_states=tuple(row.testing_state for row in self.rows),
        )


def read_trace(source: bytes | Path, *, name: str | None = None) -> Trace:
    """Read a `trace.parquet`.

    Args:
        source: Its bytes, or its path.
        name: How to call it in an error; by default the path.

    Raises:
        TraceFormatError: It is no trace, is damaged, or was written by a newer major version.
        StorageError: The file can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    what = name or (str(source) if isinstance(source, Path) else "the trace")
    data = _read_file(source) if isinstance(source, Path) else source
    check_frame(data, what)
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False)
    except Exception as error:
        raise _damaged(what, error) from error
    header = _header_of(file.metadata.metadata or {}, what)
    try:
        table = file.read(use_threads=False)  # Arrow's threads may still end when the program does
    except Exception as error:
        raise _damaged(what, error) from error
    _check_columns(table, what)

    def row_at(index: int) -> TraceRow | None:
        return _rows(table.slice(index, 1), what)[0] if 0 <= index < table.num_rows else None

    return Trace(header=header, load_table=lambda: table, load_rows=lambda: _rows(table, what), load_row=row_at)


def trace_of_snapshot(snapshot: Snapshot, rows: Sequence[TraceRow], damage: Sequence[Damage] = ()) -> Trace:
    """A trace that was never in a file: the fold of a journal."""
    header = TraceHeader(trajectory=snapshot.trajectory, summary=snapshot.summary, end=snapshot.end)
    rows = tuple(rows)
    return Trace(
        header=header,
        damage=tuple(damage),
        load_table=lambda: TraceEncoder().table(snapshot),
        load_rows=lambda: rows,
        load_row=lambda index: rows[index] if 0 <= index < len(rows) else None,
    )


async def read_header(storage: Storage, key: str, *, size_bytes: int | None = None) -> TraceHeader:
    """Read a trace's header from its footer; of a large trace nothing else is fetched.

    Args:
        storage: Where it is.
        key: Of the `trace.parquet`.
        size_bytes: Of the object, when a listing has told it: saves a request.

    Raises:
        KeyMissingError: There is none.
        TraceFormatError: It is no trace, is damaged, or was written by a newer major version.
    """
    footer, _ = await read_footer(storage, key, size_bytes=size_bytes)
    return _header_of_footer(footer, storage.uri(key))


def read_file_header(path: Path) -> TraceHeader:
    """The same of a file on this machine.

    Raises:
        TraceFormatError: It is no trace, is damaged, or was written by a newer major version.
        StorageError: It can't be read.
    """
    return _header_of_footer(read_file_footer(path), str(path))


def _header_of_footer(footer: bytes, what: str) -> TraceHeader:
    metadata = quick_metadata(footer)
    if metadata is None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(pa.BufferReader(footer)).metadata or {}
        except Exception as error:
            raise _damaged(what, error) from error
    return _header_of(metadata, what)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TraceFormatError(f"there is no file {path}") from None
    except OSError as error:
        raise storage_error(f"{path} can't be read", error) from error


def _header_of(metadata: dict[bytes, bytes], what: str) -> TraceHeader:
    version = metadata.get(VERSION_KEY, b"").decode(errors="replace")
    if not version:
        raise TraceFormatError(f"{what} is a parquet file, but no trace of envoi-trace")
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) > int(SCHEMA_VERSION.partition(".")[0]):
        raise TraceFormatError(
            f"{what} has schema version {version[:40]}, and this envoi-trace reads up to {SCHEMA_VERSION}",
            mend="pip install --upgrade envoi-trace",
        )
    try:
        return TraceHeader(
            trajectory=value_from_json(metadata[TRAJECTORY_KEY], Trajectory),
            end=value_from_json(metadata[END_KEY], TrajectoryEnded | None),  # type: ignore[arg-type]
            summary=value_from_json(metadata[SUMMARY_KEY], TraceSummary),
            schema_version=version,
        )
    except (TypeError, ValueError, KeyError) as error:
        raise _damaged(what, error) from error


def _check_columns(table: pa.Table, what: str) -> None:
    wanted = trace_schema()
    for name in ("part", "turn", "session_id", "timestamp", "event_index", "part_type", "repo_checkpoint"):
        if name not in table.column_names:
            raise TraceFormatError(f"{what} is no whole trace: it has no column {name!r}")
    for name in table.column_names:
        if name in wanted.names and not _same_type(table.schema.field(name).type, wanted.field(name).type):
            raise TraceFormatError(f"{what} is no trace: its column {name!r} is {table.schema.field(name).type!s:.80}")


def _same_type(found: Any, wanted: Any) -> bool:
    """Whether types agree; a rewrite by another tool may lose dictionaries and rename what is in lists."""
    import pyarrow as pa

    if pa.types.is_dictionary(wanted):
        return bool(pa.types.is_dictionary(found) or pa.types.is_string(found) or pa.types.is_large_string(found))
    return bool(found == wanted or (pa.types.is_nested(found) and found.id == wanted.id))


def _rows(table: pa.Table, what: str) -> Sequence[TraceRow]:
    try:
        return tuple(rows_of(table))
    except Exception as error:
        raise _damaged(what, error) from error


def _damaged(what: str, error: Exception) -> TraceFormatError:
    reason = " ".join(str(error).split())
    return TraceFormatError(f"{what} is damaged: {reason:.200}")


async def read_trajectory(storage: Storage, trajectory_id: str) -> Trace:
    """See `envoi_trace_core.trace.lookup.read_trajectory`."""
    from envoi_trace_core.trace import lookup

    return await lookup.read_trajectory(storage, trajectory_id)


async def resolve_id(storage: Storage, prefix: str) -> str:
    """See `envoi_trace_core.trace.lookup.resolve_id`."""
    from envoi_trace_core.trace import lookup

    return await lookup.resolve_id(storage, prefix)
