"""The files of a query whose storage is elsewhere: of each trace its footer, and then only the columns that it reads.

What is fetched stands at its place in a sparse file in a scratch folder, so that DuckDB reads it like any other. A
hole can't be mistaken for data: pages begin with a header, and zeros are none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.analysis.query_files import TRACE_FILE, QueryFiles, checked
from envoi_trace_core.errors import EnvoiTraceError, KeyMissingError
from envoi_trace_core.protocols import ObjectInfo, Storage
from envoi_trace_core.trace.footers import read_footer
from envoi_trace_core.trace.keys import TRAJECTORIES, trace_key
from envoi_trace_core.trace.schema import trace_schema

if TYPE_CHECKING:
    import duckdb

READS_AT_ONCE = 8
WHOLE_BYTES = 256 * 1024
"""A smaller trace is fetched whole: one request costs about as much as that many bytes."""
GAP_BYTES = 128 * 1024
"""What lies between two columns is fetched too when it is less than that."""
MAX_READ_BYTES = 16 * 1024 * 1024
_HEAD = b"PAR1"


@attrs.define
class RemoteTraces:
    """The traces of a storage, as far as they were fetched."""

    storage: Storage
    folder: Path
    fetched_bytes: int = 0
    has_holes: bool = False
    """Whether only some columns of some traces are there."""
    _partial: dict[Path, ObjectInfo] = attrs.field(factory=dict)
    """Files that have holes."""

    async def footers(self) -> QueryFiles:
        """Fetch the footers of all of them, and small ones whole.

        Raises:
            StorageError: The storage can't be listed.
        """
        infos = [info for info in await self.storage.list(TRAJECTORIES) if info.key == trace_key(_id_of(info.key))]
        failed: dict[str, EnvoiTraceError] = {}
        paths = {info.key: self._path(info) for info in infos}
        await self._each(infos, self._footer, failed)
        there = [paths[info.key] for info in infos if await anyio.Path(paths[info.key]).exists()]
        files = await anyio.to_thread.run_sync(checked, there)
        files.left_out = failed | files.left_out
        return files

    async def complete(self, files: QueryFiles, columns: Collection[str]) -> None:
        """Fetch columns of these files; what can't be fetched is left out."""
        failed: dict[str, EnvoiTraceError] = {}
        self.has_holes = bool(self._partial)
        wanted = {path: info for path, info in self._partial.items() if path in set(files.files)}

        async def fetch(info: ObjectInfo) -> None:
            await self._columns(info, columns)

        await self._each(list(wanted.values()), fetch, failed)
        lost = {path: failed[_id_of(info.key)] for path, info in wanted.items() if _id_of(info.key) in failed}
        files.leave_out(lost)

    async def _each(self, infos: list[ObjectInfo], fetch: Any, failed: dict[str, EnvoiTraceError]) -> None:
        limiter = anyio.CapacityLimiter(READS_AT_ONCE)

        async def one(info: ObjectInfo) -> None:
            async with limiter:
                try:
                    await fetch(info)
                except KeyMissingError:
                    self._path(info).unlink(missing_ok=True)  # removed since the storage was listed
                except EnvoiTraceError as error:
                    failed[_id_of(info.key)] = error

        async with anyio.create_task_group() as group:
            for info in infos:
                group.start_soon(one, info)

    async def _footer(self, info: ObjectInfo) -> None:
        if info.size_bytes <= WHOLE_BYTES:
            await self._whole(info)
            return
        footer, size_bytes = await read_footer(self.storage, info.key, size_bytes=info.size_bytes)
        self.fetched_bytes += len(footer)
        path = self._path(info)
        pieces = {0: _HEAD, size_bytes - len(footer): footer}
        await anyio.to_thread.run_sync(_write_sparse, path, size_bytes, pieces)
        self._partial[path] = attrs.evolve(info, size_bytes=size_bytes)

    async def _whole(self, info: ObjectInfo) -> None:
        data = await self.storage.get(info.key)
        self.fetched_bytes += len(data)
        await anyio.to_thread.run_sync(_write_sparse, self._path(info), len(data), {0: data})

    async def _columns(self, info: ObjectInfo, columns: Collection[str]) -> None:
        path = self._path(info)
        for start, end in await anyio.to_thread.run_sync(lambda: list(_ranges(path, columns))):
            data = await self.storage.get(info.key, start=start, length=end - start)
            self.fetched_bytes += len(data)
            await anyio.to_thread.run_sync(_write_sparse, path, info.size_bytes, {start: data})
        now = await self.storage.stat(info.key)
        if now is None or now.version != info.version:
            await self._whole(info)  # written anew meanwhile: pieces of two files are none
            del self._partial[path]

    def _path(self, info: ObjectInfo) -> Path:
        return self.folder / _id_of(info.key) / TRACE_FILE


def columns_read(connection: duckdb.DuckDBPyConnection, sql: str) -> frozenset[str]:
    """The columns of `parts` that a statement reads, or a few more; all when its plan does not say."""
    import duckdb

    every = frozenset(trace_schema().names)
    if re.match(r"(describe|show|desc)\b", sql, re.IGNORECASE):
        return frozenset()
    try:
        found = connection.execute(f"EXPLAIN (FORMAT JSON) {sql}").fetchall()
        plans = [json.loads(text) for _, text in found]
    except (duckdb.Error, ValueError):
        return every
    words = frozenset(word for plan in plans for word in _scanned_words(plan))
    return words & every


def _scanned_words(plan: Any) -> Iterator[str]:
    """Every word that stands in what a plan says of a scan of files."""
    if isinstance(plan, list):
        for each in plan:
            yield from _scanned_words(each)
    elif isinstance(plan, Mapping):
        if "PARQUET" in str(plan.get("name", "")).upper():
            yield from re.findall(r"\w+", json.dumps(plan.get("extra_info")))
        yield from _scanned_words(plan.get("children", []))


def _ranges(path: Path, columns: Collection[str]) -> Iterator[tuple[int, int]]:
    """Where the columns stand in a file whose footer is there: from byte to byte, merged where they are near."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    found: list[tuple[int, int]] = []
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(row_group.num_columns):
            column = row_group.column(index)
            if column.path_in_schema.partition(".")[0] in columns:
                offsets = [column.data_page_offset]
                if column.has_dictionary_page:
                    offsets.append(column.dictionary_page_offset)
                found.append((min(offsets), min(offsets) + column.total_compressed_size))
    yield from _merged(sorted(found))


def _merged(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in ranges:
        if merged and start - merged[-1][1] <= GAP_BYTES:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    for start, end in merged:
        for at in range(start, end, MAX_READ_BYTES):
            yield at, min(end, at + MAX_READ_BYTES)


def _write_sparse(path: Path, size_bytes: int, pieces: Mapping[int, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(size_bytes)
        for start, data in pieces.items():
            file.seek(start)
            file.write(data)


def _id_of(key: str) -> str:
    return key.removeprefix(TRAJECTORIES).partition("/")[0]
