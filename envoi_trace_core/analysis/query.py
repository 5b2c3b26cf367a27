"""SQL over traces: DuckDB on the files as they are, which reads, and nothing else.

`parts` is a view over the files, one row a part; `trajectories` one over their footers, one row each, also of a
trajectory that ended before its first part. Extensions are never loaded or downloaded, and no other file of the
machine can be read: DuckDB has Parquet, JSON and time zones built in, and takes only the paths that it is given.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from envoi_trace_core.analysis.query_values import plain
from envoi_trace_core.analysis.query_views import parts_view, trajectories_view
from envoi_trace_core.errors import EnvoiTraceError, TraceFormatError, UsageError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

BATCH_ROWS = 2048
MEMORY_LIMIT = "2GB"
"""DuckDB goes to disk beyond it, where it can."""
_MAY_MEAN_TRAJECTORIES = re.compile("trajectories|show|describe|duckdb_|_schema|sqlite_|pg_", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class QueryRows:
    """What a statement gave; read once."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]
    """Values as JSON has them, but for moments and the like."""


class DamagedFilesError(Exception):
    """A file may be damaged: DuckDB failed, and not because of the statement."""


@contextmanager
def open_query(
    files: Sequence[Path],
    statement: str,
    *,
    scratch: Path,
    memory_limit: str = MEMORY_LIMIT,
    by_name: bool = False,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the views `parts` and `trajectories` over traces, locked against all else.

    Args:
        files: Each a whole `trace.parquet`.
        statement: What is going to be run; a view that it can't mean is not made.
        scratch: A folder for what does not fit into memory.
        memory_limit: As DuckDB has it: `2GB`.
        by_name: Whether files may lack columns that others have; costs a look into each.

    Raises:
        UsageError: The limit is none.
        DamagedFilesError: The footer of a file can't be read.
    """
    import duckdb

    settings: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,  # `FROM files` shall not find a variable of ours
        "temp_directory": str(scratch / "spill"),
        "errors_as_json": True,
    }
    connection = duckdb.connect(":memory:", config=settings)
    try:
        try:
            connection.execute(f"SET memory_limit = {_quoted(memory_limit)}")
        except duckdb.Error:
            raise UsageError(f"{memory_limit!r:.40} is no amount of memory", mend="--memory-limit 4GB") from None
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET allowed_paths = [{', '.join(_quoted(str(file)) for file in files)}]")
        connection.execute("SET enable_external_access = false")
        try:
            parts_view(connection, files, by_name=by_name)
            if _MAY_MEAN_TRAJECTORIES.search(statement):
                trajectories_view(connection, files)
        except (duckdb.Error, UnicodeDecodeError) as error:
            raise DamagedFilesError(" ".join(str(error).split())) from error
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def check_statement(sql: str, connection: duckdb.DuckDBPyConnection | None = None) -> str:
    """The one statement that a text holds.

    Args:
        sql: The text.
        connection: Of `open_query`; without one, one is opened for this.

    Raises:
        UsageError: It is none, several, or does something else than read.
    """
    import duckdb

    try:
        if connection is not None:
            statements = connection.extract_statements(sql)
        else:
            with duckdb.connect(":memory:", config={"errors_as_json": True}) as parsing:
                statements = parsing.extract_statements(sql)
    except duckdb.Error as error:
        raise _sql_error(error, sql) from None
    if not statements:
        raise UsageError("the query is empty", mend='envoi-trace query "SELECT * FROM trajectories"')
    if len(statements) > 1:
        raise UsageError(f"the query is {len(statements)} statements", mend="give them one by one")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise UsageError(f"a query only reads, and this is {kind.name}", mend="SELECT, DESCRIBE, SHOW or SUMMARIZE")
    query = str(statements[0].query).strip()
    return query.removesuffix(";").rstrip()


def run_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> QueryRows:
    """Run a statement; its rows are made while they are read.

    Raises:
        UsageError: The statement is wrong: what, and where in it.
        DamagedFilesError: It may be a file.
    """
    with _errors(sql, connection):
        relation = connection.sql(sql)
        columns = tuple(relation.columns)
        reader = relation.to_arrow_reader(BATCH_ROWS)
    return QueryRows(columns=columns, rows=_rows(reader, sql))


def _rows(reader: pa.RecordBatchReader, sql: str) -> Iterator[tuple[Any, ...]]:
    while True:
        with _errors(sql):
            batch = next(reader, None)
        if batch is None:
            return
        yield from zip(*(plain(column) for column in batch.columns), strict=True)


@contextmanager
def _errors(sql: str, connection: duckdb.DuckDBPyConnection | None = None) -> Iterator[None]:
    import duckdb
    import pyarrow as pa

    not_the_statement = (duckdb.IOException, duckdb.InvalidInputException, duckdb.InternalException, OSError)
    try:
        yield
    except duckdb.InterruptException as error:
        raise UsageError("the query was interrupted") from error
    except duckdb.OutOfMemoryException as error:
        raise UsageError(f"the query needs more memory: {_message(error)[0]}", mend="--memory-limit 8GB") from None
    except duckdb.PermissionException as error:
        raise UsageError(f"a query reads traces only: {_message(error)[0]}") from None
    except duckdb.Error as error:
        # What the reader of Parquet says of a damaged file has no class of its own.
        if type(error) is duckdb.Error or isinstance(error, not_the_statement):
            raise DamagedFilesError(_message(error)[0]) from error
        raise _sql_error(_placed(error, sql, connection), sql) from None
    except (UnicodeDecodeError, pa.ArrowInvalid, OSError, RuntimeError) as error:
        raise DamagedFilesError(" ".join(str(error).split())[:300]) from error


def damaged(files: Sequence[Path], message: str) -> dict[Path, EnvoiTraceError]:
    """Which files can't be read whole, and why.

    Args:
        files: All that were read.
        message: What DuckDB said; when it names a damaged one, only that is looked at.
    """
    named = [file for file in files if f'"{file}"' in message]
    return _damaged(named) or _damaged(files)


def _damaged(files: Sequence[Path]) -> dict[Path, EnvoiTraceError]:
    from envoi_trace_core.trace.reader import read_trace

    found: dict[Path, EnvoiTraceError] = {}
    for file in files:
        try:
            read_trace(file)
        except EnvoiTraceError as error:
            found[file] = error
    return found


def statement_failed(error: DamagedFilesError) -> TraceFormatError:
    """When no file is to blame."""
    return TraceFormatError(f"the query failed: {error}")


def _placed(error: Exception, sql: str, connection: duckdb.DuckDBPyConnection | None) -> Exception:
    """The same error with its place in the statement: a relation's has none, EXPLAIN's has."""
    import duckdb

    if connection is not None and _message(error)[1] is None:
        try:
            connection.execute(f"EXPLAIN {sql}")
        except duckdb.Error as placed:
            said, position = _message(placed)
            if position is not None and position >= len("EXPLAIN "):
                return _PlacedError(said, position - len("EXPLAIN "))
    return error


class _PlacedError(Exception):
    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def _sql_error(error: Exception, sql: str) -> UsageError:
    message, position = _message(error)
    where = ""
    if position is not None:
        before = sql.encode()[:position].decode(errors="replace")
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        where = f" (line {line}, column {column})" if "\n" in sql.strip() else f" (column {column})"
    return UsageError(f"{message}{where}", mend='envoi-trace query "DESCRIBE parts" shows the columns')


def _message(error: Exception) -> tuple[str, int | None]:
    """What DuckDB says, in one line, and where in the statement."""
    text = str(error)
    if isinstance(error, _PlacedError):
        return text, error.position
    kind, _, rest = text.partition(": ")
    with contextlib.suppress(ValueError, TypeError):
        said = json.loads(rest)
        message = " ".join(str(said["exception_message"]).split())
        position = said.get("position")
        return f"{kind}: {message}", int(position) if position is not None else None
    return " ".join(text.partition("\n\nLINE ")[0].split()), None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
