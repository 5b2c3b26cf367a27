"""`envoi_trace_core.open_trace`: a trace for a script or a notebook."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.errors import UsageError
from envoi_trace_core.options import parse_options
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.lookup import read_trajectory, resolve_id
from envoi_trace_core.trace.reader import Trace, read_trace

TRACE_FILE = "trace.parquet"


def open_trace(
    id_or_path: str | Path,
    *,
    storage: Storage | Path | str | None = None,
    storage_opts: tuple[str, ...] | list[str] = (),
) -> Trace:
    """Read a trajectory: as typed values (`trace.rows`) and as Arrow (`trace.table`), each made when it is asked for.

        from envoi_trace_core import open_trace

        with open_trace("0198c5") as trace:
            for row in trace.rows:
                print(row.part.part, row.part.summary, row.testing_state.solved_paths)
        open_trace("0198c5", storage="s3", storage_opts=["bucket=traces"]).table.to_pandas()

    It may be called in a thread that runs an event loop, as a notebook's does. What is returned holds nothing open;
    leaving it as a context manager forgets what it has read.

    Args:
        id_or_path: A path to a `trace.parquet` or to the folder that holds it; else an id, or a unique prefix of one.
        storage: Where to look for an id: a storage; its name (`local`, `s3`), as `--storage` takes it; or the root of
            a local one, as a `Path`. The working directory by default.
        storage_opts: `KEY=VALUE` words for a storage that is named.

    Raises:
        UsageError: There is none, several ids begin like that, or there is no such storage.
        PluginError: The storage's plugin is broken.
        TraceFormatError: It is no trace, is damaged, or was written by a newer major version.
        StorageError: It can't be read.
    """
    path = Path(id_or_path)
    if path.is_dir() and (path / TRACE_FILE).is_file():
        path /= TRACE_FILE
    if isinstance(id_or_path, Path) or path.is_file() or path.suffix == ".parquet" or len(path.parts) > 1:
        return read_trace(path)
    if storage_opts and not isinstance(storage, str):
        raise UsageError("storage_opts are for a storage that is named", mend='open_trace(ID, storage="s3", ...)')

    async def read() -> Trace:
        opened = await _open(storage, storage_opts)
        try:
            return await read_trajectory(opened, await resolve_id(opened, str(id_or_path)))
        finally:
            if opened is not storage:
                await opened.close()

    # A notebook runs an event loop in this thread already.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(anyio.run, read).result()


async def _open(storage: Storage | Path | str | None, opts: tuple[str, ...] | list[str]) -> Storage:
    if isinstance(storage, str):
        spec = Plugins.load().storage(storage)
        return await spec.create(parse_options(spec.options, opts, "storage", storage))
    if storage is None or isinstance(storage, Path):
        return LocalStorage(storage or Path.cwd())
    return storage
