"""One query over a storage: its files, the statement, and again without the files that turn out to be damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs

from envoi_trace_core.analysis.query import (
    MEMORY_LIMIT,
    DamagedFilesError,
    QueryRows,
    check_statement,
    damaged,
    open_query,
    run_statement,
    statement_failed,
)
from envoi_trace_core.analysis.query_fetch import RemoteTraces, columns_read
from envoi_trace_core.analysis.query_files import QueryFiles, local_files
from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.errors import EnvoiTraceError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.schema import trace_schema

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_TRIES = 4
INTERRUPT_INTERVAL_S = 0.05


@attrs.frozen(kw_only=True)
class QuerySummary:
    """How a query went."""

    traces: int
    left_out: dict[str, EnvoiTraceError]
    """Trajectories that could not be read, and why."""
    fetched_bytes: int = 0
    """From a storage that is elsewhere."""


async def query_storage(
    storage: Storage, sql: str, take: Callable[[QueryRows], None], *, memory_limit: str = MEMORY_LIMIT
) -> QuerySummary:
    """Run a statement over all traces of a storage.

    Args:
        storage: Where they are. Of a local one the files are read as they are; from another one what is needed comes
            into a scratch folder.
        sql: One statement that reads.
        take: Given the result, in a thread. When a file turns out to be damaged while it reads, the whole of it is
            given again, without that file.
        memory_limit: For DuckDB, as it has it.

    Raises:
        UsageError: The statement is wrong, or does more than read.
        StorageError: The storage can't be listed.
        TraceFormatError: The query failed, and no file is to blame.
    """
    with TemporaryDirectory(prefix="envoi-trace-query-") as folder:
        scratch = Path(folder)
        if isinstance(storage, LocalStorage):
            files = await anyio.to_thread.run_sync(local_files, storage.root)
            remote = None
        else:
            remote = RemoteTraces(storage, scratch / "traces")
            await anyio.to_thread.run_sync(check_statement, sql)  # before anything is fetched
            files = await remote.footers()
            await remote.complete(files, await anyio.to_thread.run_sync(_plan, files, scratch, sql))
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                await _run_interruptibly(partial(_run, files, scratch, sql, memory_limit, take))
                break
            except DamagedFilesError as error:
                if not tries_left or not await _mend(files, remote, error):
                    raise statement_failed(error) from error
    fetched = remote.fetched_bytes if remote is not None else 0
    return QuerySummary(traces=len(files.files), left_out=files.left_out, fetched_bytes=fetched)


async def _run_interruptibly(call: Callable[[Callable[[DuckDBPyConnection], None]], None]) -> None:
    """Run in a thread; when this is cancelled (Ctrl-C), so is the statement."""
    opened: list[DuckDBPyConnection] = []
    ended = anyio.Event()
    failures: list[BaseException] = []

    async def in_thread() -> None:
        # A task of its own: Ctrl-C cancels the main one in asyncio's way, which would leave the thread alone.
        try:
            await anyio.to_thread.run_sync(call, opened.append)
        except BaseException as error:  # noqa: BLE001 - raised below, not wrapped into a group
            failures.append(error)
        finally:
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(in_thread)
        try:
            await ended.wait()
        finally:
            with anyio.CancelScope(shield=True):
                while not ended.is_set():
                    # Again and again: an interrupt before the statement runs is forgotten.
                    _interrupt(opened)
                    with anyio.move_on_after(INTERRUPT_INTERVAL_S):
                        await ended.wait()
    if failures:
        await anyio.lowlevel.checkpoint()  # a statement that was interrupted is a task that was cancelled
        raise failures[0]


def _interrupt(connections: Sequence[DuckDBPyConnection]) -> None:
    import duckdb

    for connection in connections:
        with suppress(duckdb.Error):  # closed by then
            connection.interrupt()


def _run(
    files: QueryFiles,
    scratch: Path,
    sql: str,
    memory_limit: str,
    take: Callable[[QueryRows], None],
    on_open: Callable[[DuckDBPyConnection], None],
) -> None:
    try:
        with open_query(
            files.files, sql, scratch=scratch, memory_limit=memory_limit, by_name=files.by_name
        ) as connection:
            on_open(connection)
            take(run_statement(connection, check_statement(sql, connection)))
    except FileNotFoundError as error:  # a trace that was removed since the storage was listed
        raise DamagedFilesError(str(error)) from error


def _plan(files: QueryFiles, scratch: Path, sql: str) -> frozenset[str]:
    with open_query(files.files, sql, scratch=scratch, by_name=files.by_name) as connection:
        return columns_read(connection, check_statement(sql, connection))


async def _mend(files: QueryFiles, remote: RemoteTraces | None, error: DamagedFilesError) -> bool:
    """Whether there is anything else to try."""
    if remote is not None and remote.has_holes:
        await remote.complete(files, trace_schema().names)
        remote.has_holes = False
        return True
    broken = await anyio.to_thread.run_sync(damaged, files.files, str(error))
    files.leave_out(broken)
    if broken:
        return True
    if files.by_name:
        return False
    files.by_name = True  # written by another tool, perhaps: with other columns, or in another order
    return True
