"""Bytes into lines, with the offset at which each ends."""

from __future__ import annotations

from collections.abc import Iterator

import attrs


@attrs.frozen(kw_only=True)
class Line:
    """A line of a process's output."""

    data: bytes
    """Without the newline."""
    end_offset: int
    """Where the next line begins, in bytes from the beginning of the output: read on from there."""
    cut: bool = False
    """Whether it was longer than the bound; its beginning is kept."""


class LineSplitter:
    """Joins chunks and gives their whole lines; keeps at most one line's bound in memory."""

    def __init__(self, offset: int, max_line_bytes: int) -> None:
        self.read_to = offset
        """Where the next chunk begins."""
        self._max_line_bytes = max_line_bytes
        self._parts = bytearray()
        self._pending = False
        self._cut = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that this chunk completes. The offset moves with each line, so a caller may stop between."""
        start = 0
        while (newline := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk, start, newline)
            self.read_to += newline + 1 - start
            start = newline + 1
            yield self._take()
        if start < len(chunk):
            self._keep(chunk, start, len(chunk))
            self._pending = True
            self.read_to += len(chunk) - start

    def finish(self) -> Line | None:
        """What came after the last newline, now that nothing more comes."""
        return self._take() if self._pending else None

    def _keep(self, chunk: bytes, start: int, end: int) -> None:
        room = self._max_line_bytes - len(self._parts)
        self._cut = self._cut or end - start > room
        self._parts += memoryview(chunk)[start : min(end, start + room)]

    def _take(self) -> Line:
        line = Line(data=bytes(self._parts), end_offset=self.read_to, cut=self._cut)
        self._parts.clear()
        self._pending = self._cut = False
        return line
