"""`envoi-trace query`: SQL over all traces of a storage."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from envoi_trace_core.cli.output import note, out_table, warn
from envoi_trace_core.cli.reading import StorageName, StorageOpts, StorageWords, run_async
from envoi_trace_core.errors import UsageError

if TYPE_CHECKING:
    from envoi_trace_core.analysis.query import QueryRows
    from envoi_trace_core.analysis.query_run import QuerySummary

MAX_TABLE_ROWS = 1000
MAX_CELL_CHARS = 200
MAX_WARNINGS = 10
KEPT_BYTES = 16 * 1024 * 1024
"""A result beyond that waits in a temporary file, not in memory, until it is known to be whole."""


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def query(
    sql: Annotated[str, typer.Argument(help="One statement that reads; - takes it from stdin.", metavar="SQL")],
    output_format: Annotated[Format, typer.Option("--format", help="How the result is printed.")] = Format.TABLE,
    memory_limit: Annotated[
        str | None, typer.Option(help="For DuckDB; beyond it goes to disk what can.", metavar="SIZE")
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
) -> None:
    """Query all traces of a storage with SQL (DuckDB): `parts` has one row a part, `trajectories` one row each.

    For example: envoi-trace query "SELECT agent, model, avg(solved::INT) FROM trajectories GROUP BY ALL"
    """
    statement = sys.stdin.read() if sql == "-" else sql
    result = _Result(output_format)
    words = StorageWords.of(storage, storage_opt)
    with result.open():
        summary = run_async(lambda: _query(words, statement, result, memory_limit))
        _tell(summary)
        result.print()


async def _query(words: StorageWords, sql: str, result: _Result, memory_limit: str | None) -> QuerySummary:
    from envoi_trace_core.analysis.query import MEMORY_LIMIT
    from envoi_trace_core.analysis.query_run import query_storage

    async with words.open() as storage:
        return await query_storage(storage, sql, result.take, memory_limit=memory_limit or MEMORY_LIMIT)


def _tell(summary: QuerySummary) -> None:
    for trajectory_id, error in list(summary.left_out.items())[:MAX_WARNINGS]:
        warn(f"{trajectory_id} is left out: {error.message}")
    if len(summary.left_out) > MAX_WARNINGS:
        warn(f"{len(summary.left_out) - MAX_WARNINGS} more are left out")
    if not summary.traces:
        note("no trajectories")


class _Result:
    """A result on its way to stdout: printed only when all of it is there, since a damaged file starts it anew."""

    def __init__(self, output_format: Format) -> None:
        self._format = output_format
        self._columns: tuple[str, ...] = ()
        self._table: list[tuple[Any, ...]] = []
        self._more = 0
        self._file: IO[str] | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """For as long as the result is wanted."""
        with SpooledTemporaryFile(max_size=KEPT_BYTES, mode="w+", encoding="utf-8", newline="") as self._file:
            yield

    def take(self, rows: QueryRows) -> None:
        """Read a result, and forget the one before it."""
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        self._columns, self._table, self._more = rows.columns, [], 0
        match self._format:
            case Format.TABLE:
                for row in rows.rows:
                    if len(self._table) < MAX_TABLE_ROWS:
                        self._table.append(row)
                    else:
                        self._more += 1
            case Format.JSON:
                _write_json(self._file, rows)
            case Format.CSV:
                writer = csv.writer(self._file, lineterminator="\n")
                writer.writerow(rows.columns)
                writer.writerows(map(_csv_row, rows.rows))

    def print(self) -> None:
        """To stdout."""
        assert self._file is not None
        if self._format is not Format.TABLE:
            self._file.seek(0)
            shutil.copyfileobj(self._file, sys.stdout)
            return
        if not self._columns:
            return
        right = [index for index, _ in enumerate(self._columns) if _is_numeric(self._table, index)]
        out_table(self._columns, [[_cell(value) for value in row] for row in self._table], right=right)
        if self._more:
            note(f"{self._more:,} more rows: --format csv gives all of them, LIMIT fewer")


def _write_json(file: IO[str], rows: QueryRows) -> None:
    if len(set(rows.columns)) < len(rows.columns):
        raise UsageError(
            f"two columns of the result have one name: {', '.join(rows.columns)}", mend="name them: SELECT ... AS NAME"
        )
    separator = "[\n"
    for row in rows.rows:
        file.write(separator + json.dumps(dict(zip(rows.columns, row, strict=True)), ensure_ascii=False))
        separator = ",\n"
    file.write("[]\n" if separator == "[\n" else "\n]\n")


def _is_numeric(rows: list[tuple[Any, ...]], index: int) -> bool:
    values = [row[index] for row in rows if row[index] is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _csv_row(row: tuple[Any, ...]) -> list[Any]:
    return [_text(value) if isinstance(value, bool | list | Mapping) else value for value in row]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.6g}"
        case str():
            text = value
        case _:
            text = _text(value)
    return text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"
