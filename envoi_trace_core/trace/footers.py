"""Footers of Parquet files: all that a listing reads, and at once what a file that is none is told by."""

from __future__ import annotations

import struct
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

from envoi_trace_core.errors import StorageError, TraceFormatError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.line_log import storage_error
from envoi_trace_core.trace.schema import END_KEY, SUMMARY_KEY, TRAJECTORY_KEY, VERSION_KEY

_MAGIC = b"PAR1"
_TAIL_BYTES = 64 * 1024
_MAX_FOOTER_BYTES = 256 * 1024 * 1024


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
                check_frame(head, what)
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


def read_file_footer(path: Path) -> bytes:
    """The same of a file on this machine.

    Raises:
        TraceFormatError: There is none, or it is no parquet file.
        StorageError: It can't be read.
    """
    what = str(path)
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, SEEK_END)
            head, tail = _ends(file, size_bytes, _TAIL_BYTES)
            check_frame(head + tail, what)
            footer_bytes = _footer_bytes(tail, size_bytes, what)
            return _ends(file, size_bytes, footer_bytes)[1] if footer_bytes > len(tail) else tail[-footer_bytes:]
    except FileNotFoundError:
        raise TraceFormatError(f"there is no file {path}") from None
    except OSError as error:
        raise storage_error(f"{path} can't be read", error) from error


def _ends(file: BinaryIO, size_bytes: int, tail_bytes: int) -> tuple[bytes, bytes]:
    """The first bytes of a file, when the last ones don't hold them, and the last ones."""
    file.seek(0)
    head = file.read(4) if size_bytes > tail_bytes else b""
    file.seek(max(0, size_bytes - tail_bytes))
    return head, file.read(tail_bytes)


def quick_metadata(footer: bytes) -> dict[bytes, bytes] | None:
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


def _footer_bytes(tail: bytes, size_bytes: int, what: str) -> int:
    """The length of the footer with its length field and magic."""
    if size_bytes < 12:
        raise TraceFormatError(f"{what} is cut off: a parquet file ends with its footer")
    length = struct.unpack("<I", tail[-8:-4])[0] + 8
    if length > min(size_bytes, _MAX_FOOTER_BYTES):
        raise TraceFormatError(f"{what} is damaged: its footer can't be {length} bytes long")
    return int(length)


def check_frame(data: bytes, what: str) -> None:
    """Whether the beginning and the end of some bytes are those of a Parquet file.

    Raises:
        TraceFormatError: They are not.
    """
    if not data:
        raise TraceFormatError(f"{what} is empty", mend="if the run's journal is still on this machine: show its id")
    if not data.startswith(_MAGIC):
        raise TraceFormatError(f"{what} is no parquet file, so it is no trace")
    if not data.endswith(_MAGIC) or len(data) < 12:
        raise TraceFormatError(f"{what} is cut off: a parquet file ends with its footer")
