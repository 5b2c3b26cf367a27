"""Known secrets out of what an agent saved of its own conversation, so that the agent can still read it.

Such a state is a file, or a tar of files, bare or compressed by gzip or zstd. What is compressed is opened, each file
in it is masked without a change of its length, and all is packed as it was: offsets in a database stay right, and a
line of JSON stays one.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from envoi_trace_core.errors import StorageError
from envoi_trace_core.trace.redact import Redactor

MAX_UNPACKED_BYTES = 4 * 1024**3
"""It comes out of a sandbox: a larger one is a trap, or of no use."""
_BLOCK_BYTES = 4 * 1024**2
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_TAR_AT, _TAR = 257, b"ustar"
_LEVEL = 3


def masked_state(state: bytes, redactor: Redactor) -> bytes:
    """A saved state without the secrets; the same object when there is nothing to look for.

    Raises:
        StorageError: It can't be opened, so that nobody can say what it holds.
    """
    if redactor.is_empty:
        return state
    try:
        if state.startswith(_GZIP):
            return _through_gzip(state, redactor)
        if state.startswith(_ZSTD):
            return _through_zstd(state, redactor)
        made = io.BytesIO()
        _mask_file(io.BytesIO(state), made, redactor)
        return made.getvalue()
    except _UNREADABLE as error:
        raise StorageError(f"it can't be opened to take secrets out: {error!s:.200}") from error


_UNREADABLE = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error)


def _through_gzip(state: bytes, redactor: Redactor) -> bytes:
    made = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=io.BytesIO(state)) as packed,
        gzip.GzipFile(fileobj=made, mode="wb", compresslevel=_LEVEL, mtime=0) as target,
    ):
        _mask_file(io.BufferedReader(packed), target, redactor)
    return made.getvalue()


def _through_zstd(state: bytes, redactor: Redactor) -> bytes:
    import zstandard

    made = io.BytesIO()
    try:
        with (
            zstandard.ZstdDecompressor().stream_reader(io.BytesIO(state)) as packed,
            zstandard.ZstdCompressor(_LEVEL).stream_writer(made, closefd=False) as target,
        ):
            _mask_file(io.BufferedReader(packed), target, redactor)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return made.getvalue()


def _mask_file(source: io.BufferedReader | io.BytesIO, target: IO[bytes] | gzip.GzipFile, redactor: Redactor) -> None:
    head = source.read(_TAR_AT + len(_TAR))
    rest = _Bounded(_Joined(head, source))
    if head[_TAR_AT:] == _TAR:
        _mask_tar(rest, target, redactor)
    else:
        for block in _masked(rest.read, redactor):
            target.write(block)


def _mask_tar(source: _Bounded, target: IO[bytes] | gzip.GzipFile, redactor: Redactor) -> None:
    """Regular files and folders only: nothing else belongs into a state."""
    with (
        tarfile.open(fileobj=source, mode="r|") as old,  # type: ignore[call-overload]
        tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            if not (member.isreg() or member.isdir()):
                continue
            kept = tarfile.TarInfo(
                redactor.mask(member.name.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
            )
            kept.mode, kept.mtime, kept.type, kept.size = member.mode, member.mtime, member.type, member.size
            content = old.extractfile(member) if member.isreg() else None
            new.addfile(kept, _Blocks(_masked(content.read, redactor)) if content is not None else None)


def _masked(read: Callable[[int], bytes], redactor: Redactor) -> Iterator[bytes]:
    """What is read, masked, in blocks. The end of a block waits for the next one: a secret may go on there."""
    overlap = 4 * redactor.max_form_chars
    held = b""
    while block := read(_BLOCK_BYTES + overlap):
        window = redactor.mask(held + block)
        yield window[:-overlap]
        held = window[-overlap:]
    if held:
        yield held


class _Joined:
    """A beginning that was read already, and the rest."""

    def __init__(self, head: bytes, rest: IO[bytes] | io.BufferedReader) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int) -> bytes:
        if not self._head:
            return self._rest.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


class _Bounded:
    """Reads in full, up to the bound of all that is unpacked."""

    def __init__(self, source: _Joined) -> None:
        self._source = source
        self._left_bytes = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while size > 0 and (piece := self._source.read(size)):
            pieces.append(piece)
            size -= len(piece)
            self._left_bytes -= len(piece)
            if self._left_bytes < 0:
                raise ValueError(f"it holds more than {MAX_UNPACKED_BYTES} bytes")
        return b"".join(pieces)


class _Blocks(io.RawIOBase):
    """Blocks as a file that `tarfile` reads from."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        while (size < 0 or len(self._held) < size) and (block := next(self._blocks, None)) is not None:
            self._held += block
        if size < 0:
            size = len(self._held)
        data, self._held = self._held[:size], self._held[size:]
        return data
