"""An append-only log of this machine as numbered objects in a storage: `000001.jsonl` and so on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
from anyio import to_thread

from envoi_trace_core.errors import ConditionFailedError, StorageError
from envoi_trace_core.protocols import Absent, Storage
from envoi_trace_core.trace.line_log import storage_error

MAX_SEGMENT_BYTES = 16 * 1024 * 1024
"""A longer outage than that makes several objects; only a single longer line makes a larger one."""


@attrs.define(kw_only=True)
class StoredLog:
    """What the storage has of a log. Made by `find`; one writer, the holder of the trajectory."""

    storage: Storage
    prefix: str
    path: Path
    """The log on this machine."""
    sizes_bytes: list[int]
    """Of each object."""

    @classmethod
    async def find(cls, storage: Storage, prefix: str, path: Path) -> StoredLog:
        """Look what is stored; objects behind a gap do not count.

        Raises:
            StorageError: The storage can't be reached.
        """
        return cls(
            storage=storage, prefix=prefix, path=path, sizes_bytes=await numbered_sizes(storage, prefix, "jsonl")
        )

    @property
    def size_bytes(self) -> int:
        """Of the log as it is stored."""
        return sum(self.sizes_bytes)

    def key(self, number: int) -> str:
        """Where an object stands; the first is 1."""
        return f"{self.prefix}{number:06d}.jsonl"

    async def is_behind_local(self) -> bool:
        """Whether the log on this machine begins with all that is stored.

        Lines hold the time, and a CRC of it: when the newest object is the same, so are those before it.
        """
        if not self.sizes_bytes:
            return True
        newest = await self.storage.get(self.key(len(self.sizes_bytes)))
        start = self.size_bytes - len(newest)
        return await to_thread.run_sync(_read, self.path, start, len(newest)) == newest

    async def upload(self, end: int) -> None:
        """Store what the log gained, up to a byte behind a line end.

        Raises:
            StorageError: It could not be stored; what was stored before stays.
            ConditionFailedError: Another run writes there.
        """
        while (start := self.size_bytes) < end:
            data = await to_thread.run_sync(_read_segment, self.path, start, end)
            if not data:
                raise StorageError(f"{self.path} is shorter than it was")
            key = self.key(len(self.sizes_bytes) + 1)
            try:
                await self.storage.put(key, data, condition=Absent())
            except ConditionFailedError:
                data = await self.storage.get(key)  # stored by an earlier try whose answer was lost
                if await to_thread.run_sync(_read, self.path, start, len(data)) != data or not data:
                    raise
            self.sizes_bytes.append(len(data))

    async def download(self) -> bytes:
        """All that is stored."""
        return b"".join([await self.storage.get(self.key(n)) for n in range(1, len(self.sizes_bytes) + 1)])

    async def cut(self, end: int) -> None:
        """Take away what is stored behind a byte: what comes later is stored in its place."""
        while self.size_bytes > end:
            number, size = len(self.sizes_bytes), self.sizes_bytes[-1]
            keep = max(0, end - (self.size_bytes - size))
            if keep:
                data = await self.storage.get(self.key(number), length=keep)
                await self.storage.put(self.key(number), data)
                self.sizes_bytes[-1] = keep
            else:
                await self.storage.delete(self.key(number))
                self.sizes_bytes.pop()


async def numbered_sizes(storage: Storage, prefix: str, suffix: str) -> list[int]:
    """The sizes of objects 1, 2, 3 and so on below a prefix, up to the first that is missing; bytes."""
    sizes: list[int] = []
    found = {info.key: info.size_bytes for info in await storage.list(prefix)}
    while (size := found.get(f"{prefix}{len(sizes) + 1:06d}.{suffix}")) is not None:
        sizes.append(size)
    return sizes


async def delete_all(storage: Storage, prefix: str, *, keep: Sequence[str] = ()) -> None:
    """Take away every object below a prefix, the last first, so that what is left has no gap."""
    for info in reversed(await storage.list(prefix)):
        if info.key not in keep:
            await storage.delete(info.key)


def _read(path: Path, start: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise storage_error(f"{path} can't be read", error) from error


def _read_segment(path: Path, start: int, end: int) -> bytes:
    length = end - start
    data = _read(path, start, min(length, MAX_SEGMENT_BYTES))
    if length <= MAX_SEGMENT_BYTES:
        return data
    line_end = data.rfind(b"\n") + 1
    return data[:line_end] if line_end else _read(path, start, length)
