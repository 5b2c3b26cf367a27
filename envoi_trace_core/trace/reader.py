"""Reads traces: whole ones as typed values and Arrow, and of many only their footers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from os import SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from envoi_trace_core.domain.facts import TrajectoryEnded
from envoi_trace_core.domain.parts import Evaluation, Part, TokenUsage, Trajectory
from envoi_trace_core.errors import StorageError, TraceFormatError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.convert import rows_of
from envoi_trace_core.trace.convert_facts import value_from_json
from envoi_trace_core.trace.encode import TraceEncoder
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

_MAGIC = b"PAR1"
_TAIL_BYTES = 64 * 1024
_MAX_FOOTER_BYTES = 256 * 1024 * 1024


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

    def row(self, part: int) -> TraceRow:
        """The row of one part.

        Raises:
            KeyError: There is none.
        """
        if 1 <= part <= len(self.rows) and self.rows[part - 1].part.part == part:
            return self.rows[part - 1]
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
    _check_frame(data, what)
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
    return Trace(header=header, load_table=lambda: table, load_rows=lambda: _rows(table, what))


def trace_of_snapshot(snapshot: Snapshot, rows: Sequence[TraceRow], damage: Sequence[Damage] = ()) -> Trace:
    """A trace that was never in a file: the fold of a journal."""
    header = TraceHeader(trajectory=snapshot.trajectory, summary=snapshot.summary, end=snapshot.end)
    rows = tuple(rows)
    return Trace(
        header=header,
        damage=tuple(damage),
        load_table=lambda: TraceEncoder().table(snapshot),
        load_rows=lambda: rows,
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
    what = str(path)
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, SEEK_END)
            head, tail = _ends(file, size_bytes, _TAIL_BYTES)
            _check_frame(head + tail, what)
            footer_bytes = _footer_bytes(tail, size_bytes, what)
            footer = _ends(file, size_bytes, footer_bytes)[1] if footer_bytes > len(tail) else tail[-footer_bytes:]
    except FileNotFoundError:
        raise TraceFormatError(f"there is no file {path}") from None
    except OSError as error:
        raise storage_error(f"{path} can't be read", error) from error
    return _header_of_footer(footer, what)


def _header_of_footer(footer: bytes, what: str) -> TraceHeader:
    metadata = _quick_metadata(footer)
    if metadata is None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(pa.BufferReader(footer)).metadata or {}
        except Exception as error:
            raise _damaged(what, error) from error
    return _header_of(metadata, what)


def _quick_metadata(footer: bytes) -> dict[bytes, bytes] | None:
    """What the header needs of a footer, without parsing what it says of each column; None when that is not so easy.

    A footer is Thrift in its compact protocol: a key and its value are two strings, each with 0x18 and its length
    before it. The key-value metadata come after the statistics of the columns, which hold words of agents; and its
    values are JSON, in which a byte 0x18 can't stand. So a key's last occurrence is the one.
    """
    found: dict[bytes, bytes] = {}
    for key in (VERSION_KEY, TRAJECTORY_KEY, END_KEY, SUMMARY_KEY):
        name = bytes([0x18, len(key)]) + key + b"\x18"
        at = footer.rfind(name)
        if at < 0:
            return None
        start, length, shift = at + len(name), 0, 0
        while True:
            if start >= len(footer) or shift > 28:
                return None
            byte = footer[start]
            length |= (byte & 0x7F) << shift
            start, shift = start + 1, shift + 7
            if byte < 0x80:
                break
        if start + length > len(footer):
            return None
        found[key] = footer[start : start + length]
    return found


def _ends(file: BinaryIO, size_bytes: int, tail_bytes: int) -> tuple[bytes, bytes]:
    """The first bytes of a file, when the last ones don't hold them, and the last ones."""
    file.seek(0)
    head = file.read(4) if size_bytes > tail_bytes else b""
    file.seek(max(0, size_bytes - tail_bytes))
    return head, file.read(tail_bytes)


async def read_footer(storage: Storage, key: str, *, size_bytes: int | None = None) -> tuple[bytes, int]:
    """The footer of a stored trace, with its length field and magic, and the size of the whole object.

    Raises:
        KeyMissingError: There is none.
        TraceFormatError: It is no parquet file.
        StorageError: It can't be read.
    """
    what = storage.uri(key)
    for _ in range(5):
        if size_bytes is None:
            info = await storage.stat(key)
            if info is None:
                await storage.get(key, length=1)  # raises the storage's own KeyMissingError
                continue
            size_bytes = info.size_bytes
        tail = await storage.get(key, start=max(0, size_bytes - _TAIL_BYTES), length=_TAIL_BYTES + 1)
        if len(tail) != min(size_bytes, _TAIL_BYTES) or not tail.endswith(_MAGIC):
            # Either the object was written anew since its size was told, or it is no parquet file.
            again = await storage.stat(key)
            if again is not None and again.size_bytes == size_bytes:
                head = tail if size_bytes <= _TAIL_BYTES else await storage.get(key, length=4) + tail
                _check_frame(head, what)
            size_bytes = None
            continue
        footer_bytes = _footer_bytes(tail, size_bytes, what)
        if footer_bytes <= len(tail):
            return tail[-footer_bytes:], size_bytes
        rest = await storage.get(key, start=size_bytes - footer_bytes, length=footer_bytes + 1)
        if len(rest) == footer_bytes and rest.endswith(tail[-_TAIL_BYTES // 2 :]):
            return rest, size_bytes
        size_bytes = None
    raise StorageError(f"{what} changed all the time while it was read", retryable=True)


def _footer_bytes(tail: bytes, size_bytes: int, what: str) -> int:
    """The length of the footer with its length field and magic."""
    if size_bytes < 12:
        raise TraceFormatError(f"{what} is cut off: a parquet file ends with its footer")
    length = struct.unpack("<I", tail[-8:-4])[0] + 8
    if length > min(size_bytes, _MAX_FOOTER_BYTES):
        raise TraceFormatError(f"{what} is damaged: its footer can't be {length} bytes long")
    return int(length)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TraceFormatError(f"there is no file {path}") from None
    except OSError as error:
        raise storage_error(f"{path} can't be read", error) from error


def _check_frame(data: bytes, what: str) -> None:
    if not data:
        raise TraceFormatError(f"{what} is empty", mend="if the run's journal is still on this machine: show its id")
    if not data.startswith(_MAGIC):
        raise TraceFormatError(f"{what} is no parquet file, so it is no trace")
    if not data.endswith(_MAGIC) or len(data) < 12:
        raise TraceFormatError(f"{what} is cut off: a parquet file ends with its footer")


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
