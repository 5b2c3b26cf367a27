"""An append-only file of JSON lines that survives a crash at any instant.

Each line is `{"crc":"89abcdef",` and the rest of a JSON object; the CRC-32 is over the rest, line end excluded.
So a torn or bit-flipped line is noticed, and each line is JSON to anything else that reads it.

Opening a log takes it over: it is copied and renamed over the old one, so that an earlier writer that still holds
the old file (a process that was stopped, and woke up after its lease) writes to a file that has no name any more,
and notices.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs

from envoi_trace_core.errors import StorageError

_PREFIX = b'{"crc":"'
_BODY_AT = len(_PREFIX) + 8 + 2  # behind the CRC, its quote and the comma
_COPY_BLOCK_BYTES = 1 << 20


@attrs.frozen(kw_only=True)
class Damage:
    """A line that could not be read."""

    line_number: int
    """1-based."""
    reason: str


def guard(json_object: str) -> bytes:
    """A line of the log: the JSON object with its CRC in front, and the line end."""
    body = json_object[1:].encode("ascii")
    return b'%s%08x",%s\n' % (_PREFIX, zlib.crc32(body), body)


def is_whole(line: bytes) -> bool:
    """Whether a line, its line end aside, is as it was written."""
    return line[:_BODY_AT] == b'%s%08x",' % (_PREFIX, zlib.crc32(line[_BODY_AT:]))


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number; None for one that is damaged. Nothing when there is no file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, 1):
            text = line.rstrip(b"\n")
            yield number, text if is_whole(text) else None


@attrs.define
class LineLog:
    """The writing end. One writer; made by `open`."""

    path: Path
    _file: BinaryIO
    _size: int
    last_line: bytes | None
    """The newest whole line when the log was opened; None for a new log."""

    @classmethod
    def open(cls, path: Path) -> LineLog:
        """Make the log, or take over the one that is there, less a torn last line.

        Raises:
            StorageError: It can't be made or read.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _take_over(path)
            file = path.open("ab", buffering=0)
            sync_folder(path.parent)
        except OSError as error:
            raise storage_error(f"{path} can't be opened for writing", error) from error
        last_line = None
        for _, line in read_lines(path):
            last_line = line or last_line
        return cls(path, file, os.fstat(file.fileno()).st_size, last_line)

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines, and return once they are durable: all of them, or an error and none.

        Raises:
            StorageError: They could not be written, or another writer took over.
        """
        if self._file.closed:
            raise StorageError(f"{self.path} is closed, or could not be mended after an error")
        data = b"".join(lines)
        self._check_still_ours()
        try:
            _write_all(self._file, data)
            os.fsync(self._file.fileno())
        except OSError as error:
            self._cut_back()
            raise storage_error(f"{self.path} can't be written", error) from error
        self._check_still_ours()
        self._size += len(data)

    @property
    def durable_bytes(self) -> int:
        """How much of the file is whole lines that are on disk."""
        return self._size

    def close(self) -> None:
        """Let go of the file. Fine when it is closed."""
        self._file.close()

    @property
    def is_taken_over(self) -> bool:
        """Whether another writer has opened it since."""
        return not self._file.closed and os.fstat(self._file.fileno()).st_nlink == 0

    def _check_still_ours(self) -> None:
        if self.is_taken_over:
            raise StorageError(
                f"{self.path} was taken over by another run of this trajectory: this one writes no more of it",
                mend="look at the other run: envoi-trace status ID",
            )

    def _cut_back(self) -> None:
        """Leave no half a line in front of the next one."""
        try:
            os.ftruncate(self._file.fileno(), self._size)
        except OSError:
            self._file.close()  # what can't be mended must not be written to


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(what: str, error: OSError) -> StorageError:
    """The error of this package for one of the operating system's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{what}: no space left", mend="free some space on that disk", retryable=True)
    return StorageError(f"{what}: {error.strerror or error}", retryable=error.errno in (errno.EIO, errno.EAGAIN))


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = file.write(view)
        view = view[written:]


def _take_over(path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with path.open("rb") as old, temporary.open("wb") as new:
            shutil.copyfileobj(old, new, _COPY_BLOCK_BYTES)
            _mend_tail(new, temporary)
            new.flush()
            os.fsync(new.fileno())
            temporary.replace(path)
            # What the other writer made durable between the copy and the rename counts as well.
            old.seek(new.tell())
            late = old.read()
            if late:
                new.write(late)
                _mend_tail(new, path)
                new.flush()
                os.fsync(new.fileno())
    finally:
        temporary.unlink(missing_ok=True)


def _mend_tail(file: BinaryIO, path: Path) -> None:
    """Cut a last line that is torn; end one of which only the line end is missing."""
    file.flush()
    size = file.tell()
    with path.open("rb") as reader:
        start = _last_line_start(reader, size)
        reader.seek(start)
        tail = reader.read(size - start)
    if not tail:
        return
    if is_whole(tail):
        file.write(b"\n")
    else:
        file.truncate(start)
        file.seek(start)


def _last_line_start(reader: BinaryIO, size: int) -> int:
    """Where what follows the last line end begins."""
    position = size
    while position > 0:
        step = min(_COPY_BLOCK_BYTES, position)
        reader.seek(position - step)
        found = reader.read(step).rfind(b"\n")
        if found >= 0:
            return position - step + found + 1
        position -= step
    return 0
