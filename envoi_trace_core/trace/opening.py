"""`envoi_trace_core.open_trace`: a trace for a script or a notebook."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.lookup import read_trajectory, resolve_id
from envoi_trace_core.trace.reader import Trace, read_trace

TRACE_FILE = "trace.parquet"


def open_trace(id_or_path: str | Path, *, storage: Storage | Path | None = None) -> Trace:
    """Read a trajectory.

        from envoi_trace_core import open_trace

        trace = open_trace("trajectories/0198c5/trace.parquet")
        for row in trace.rows:
            print(row.part.part, row.part.summary, row.testing_state.solved_paths)
        trace.table.to_pandas()

    Args:
        id_or_path: A path to a `trace.parquet` or to the folder that holds it; else an id, or a unique prefix of one.
        storage: Where to look for an id: a storage, or the root of a local one; the working directory by default.

    Raises:
        UsageError: There is none, or several ids begin like that.
        TraceFormatError: It is no trace, is damaged, or was written by a newer major version.
        StorageError: It can't be read.
    """
    path = Path(id_or_path)
    if path.is_dir() and (path / TRACE_FILE).is_file():
        path /= TRACE_FILE
    if isinstance(id_or_path, Path) or path.is_file() or path.suffix == ".parquet" or len(path.parts) > 1:
        return read_trace(path)
    opened = storage if storage is not None and not isinstance(storage, Path) else LocalStorage(storage or Path.cwd())

    async def read() -> Trace:
        return await read_trajectory(opened, await resolve_id(opened, str(id_or_path)))

    # A notebook runs an event loop in this thread already.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(anyio.run, read).result()
