"""What commands that read a trajectory share: their options, the storage, and the way from a word to a trace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from envoi_trace_core.cli.output import note
from envoi_trace_core.cli.storage_choice import choose_storage
from envoi_trace_core.errors import UsageError
from envoi_trace_core.plugins import Plugins

if TYPE_CHECKING:
    from envoi_trace_core.protocols import Storage
    from envoi_trace_core.trace.reader import Trace
    from envoi_trace_core.trace.rows import TraceRow

TRACE_FILE = "trace.parquet"

StorageName = Annotated[
    str | None,
    typer.Option("--storage", help="Where artifacts are; s3 when AWS_S3_BUCKET is set, else local.", metavar="NAME"),
]
StorageOpts = Annotated[
    list[str] | None, typer.Option("--storage-opt", help="An option of the storage. Repeatable.", metavar="KEY=VALUE")
]
TrajectoryWord = Annotated[
    str, typer.Argument(help="An id, a unique prefix of one, or a path to a trace.parquet.", metavar="ID")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@attrs.frozen(kw_only=True)
class StorageWords:
    """`--storage` and `--storage-opt`, as they were given."""

    name: str | None
    opts: tuple[str, ...]

    @classmethod
    def of(cls, name: str | None, opts: list[str] | None) -> StorageWords:
        """As typer hands them over."""
        return cls(name=name, opts=tuple(opts or ()))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Storage]:
        """The storage, closed in the end.

        Raises:
            UsageError: It is unknown or can't be used as it is set up.
        """
        choice = choose_storage(Plugins.load(), self.name, self.opts)
        if self.name is None:
            note(f"storage: {choice.spec.name} ({choice.reason})")
        storage = await choice.spec.create(choice.options)
        try:
            yield storage
        finally:
            await storage.close()


def run_async[T](work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's asynchronous body."""
    import anyio

    async def body() -> T:
        return await work()

    return anyio.run(body)


def trace_file(word: str) -> Path | None:
    """The trace's path when the word is one; None when it must be an id.

    Raises:
        UsageError: It looks like a path, and there is nothing.
    """
    path = Path(word)
    if path.is_dir() and (path / TRACE_FILE).is_file():
        return path / TRACE_FILE
    if path.is_file():
        return path
    if "/" in word or word.endswith(".parquet"):
        raise UsageError(f"there is no trace {word}", mend="envoi-trace list shows the ids")
    return None


async def find_trace(word: str, storage: StorageWords) -> Trace:
    """The trace that an id, a unique prefix or a path names.

    Raises:
        UsageError: There is none, or several ids begin like that.
        TraceFormatError: It is damaged, or newer than this version.
    """
    path = trace_file(word)

    from envoi_trace_core.trace.reader import read_trace, read_trajectory, resolve_id

    if path is not None:
        return read_trace(path)
    async with storage.open() as opened:
        return await read_trajectory(opened, await resolve_id(opened, word))


def row_of_part(trace: Trace, part: int) -> TraceRow:
    """One part's row.

    Raises:
        UsageError: There is no such part.
    """
    try:
        return trace.row(part)
    except KeyError:
        last = trace.summary.parts
        has = f"has parts 1 to {last}" if last else "has no part"
        raise UsageError(
            f"part {part} is out of range: trajectory {trace.trajectory.trajectory_id} {has}",
            mend=f"--part {last} is the last" if last else None,
        ) from None
