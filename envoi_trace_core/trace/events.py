"""The events log: what an agent emitted, word for word, durable before anything is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.domain.drafts import NativeEvent
from envoi_trace_core.errors import StorageError
from envoi_trace_core.trace.line_log import LineLog, guard, read_lines, storage_error

_COMPRESSION_LEVEL = 6


@attrs.frozen(kw_only=True)
class StoredEvent:
    """An event with the place in its agent's output at which it ended."""

    event: NativeEvent
    position: str
    hands_back: bool = False
    """Whether the agent ended its turn with it."""


def read_events(path: Path) -> Iterator[StoredEvent]:
    """Every whole event in order. A gap in `index` says that one was damaged. Nothing when there is no file."""
    for _, line in read_lines(path):
        stored = parse_event_line(line) if line is not None else None
        if stored is not None:
            yield stored


@attrs.define
class EventLog:
    """The writing end of `events.jsonl`, which also reads back what it wrote."""

    _log: LineLog
    next_index: int
    """The number of the event that is appended next."""

    @classmethod
    def open(cls, path: Path) -> EventLog:
        """Make a log, or take over the one that is there, less a torn last line.

        Raises:
            StorageError: It can't be made or read.
        """
        log = LineLog.open(path)
        last = parse_event_line(log.last_line) if log.last_line is not None else None
        return cls(log, last.event.index + 1 if last is not None else 1)

    @property
    def path(self) -> Path:
        """Where it stands."""
        return self._log.path

    @property
    def durable_bytes(self) -> int:
        """How much of it is on disk."""
        return self._log.durable_bytes

    async def append(self, event: NativeEvent, position: str, *, hands_back: bool = False) -> None:
        """Write one event, and return once it is durable.

        Raises:
            StorageError: It could not be written, or another writer took over.
            ValueError: Its index is not `next_index`.
        """
        await self.append_all([StoredEvent(event=event, position=position, hands_back=hands_back)])

    async def append_all(self, stored: Sequence[StoredEvent]) -> None:
        """Write several events with one fsync: all of them, or none.

        Raises:
            StorageError: They could not be written, or another writer took over.
            ValueError: Their indices do not go on from `next_index`.
        """
        for index, each in enumerate(stored, self.next_index):
            if each.event.index != index:
                raise ValueError(f"event {each.event.index} where {index} is next")
        lines = [guard(_to_json(each)) for each in stored]
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._log.append, lines)
        self.next_index += len(lines)

    def read(self, session_id: str | None = None) -> Iterator[NativeEvent]:
        """The events of one session, or of all, in order."""
        for stored in read_events(self.path):
            if session_id is None or stored.event.session_id == session_id:
                yield stored.event

    def last_position(self, session_id: str) -> str | None:
        """Where a session's output goes on after its last stored event; None when it has none."""
        position = None
        for stored in read_events(self.path):
            if stored.event.session_id == session_id:
                position = stored.position
        return position

    def compress_to(self, target: Path) -> None:
        """Write the artifact `events.jsonl.zst`: see `compress_events`."""
        compress_events(self.path, target)

    def close(self) -> None:
        """Let go of the file."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def compress_events(path: Path, target: Path) -> None:
    """Write an events log as zstd of JSON lines: `index`, `session_id`, `received_at`, `event` (the raw text).

    It streams: memory is bounded by the longest event.

    Raises:
        StorageError: One of the files can't be read or written.
    """
    import zstandard

    try:
        with target.open("wb") as file, zstandard.ZstdCompressor(_COMPRESSION_LEVEL).stream_writer(file) as compressed:
            for stored in read_events(path):
                compressed.write(json.dumps(_artifact_line(stored.event)).encode("ascii") + b"\n")
    except OSError as error:
        raise storage_error(f"{target} can't be written", error) from error


def read_compressed_events(source: Path) -> Iterator[NativeEvent]:
    """Read what `compress_events` wrote, streaming.

    Raises:
        StorageError: It can't be read, or is damaged; what stood before the damage was given.
    """
    import io

    import zstandard

    try:
        with source.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as raw:
            for line in io.TextIOWrapper(raw, encoding="ascii"):
                yield _event_of(json.loads(line))
    except OSError as error:
        raise storage_error(f"{source} can't be read", error) from error
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{source} is damaged: {error!s:.200}") from error


def _artifact_line(event: NativeEvent) -> dict[str, int | str]:
    return {
        "index": event.index,
        "session_id": event.session_id,
        "received_at": event.received_at.isoformat(),
        "event": event.raw,
    }


def _to_json(stored: StoredEvent) -> str:
    rare = {"hands_back": True} if stored.hands_back else {}
    return json.dumps({**_artifact_line(stored.event), "position": stored.position, **rare}, separators=(",", ":"))


def parse_event_line(line: bytes) -> StoredEvent | None:
    """A whole line of the log, its line end aside; None when it is no event."""
    try:
        values = json.loads(line)
        event = _event_of(values)
        return StoredEvent(event=event, position=values["position"], hands_back=values.get("hands_back") is True)
    except (ValueError, KeyError, TypeError):
        return None


def _event_of(values: dict[str, Any]) -> NativeEvent:
    return NativeEvent(
        index=values["index"],
        session_id=values["session_id"],
        received_at=datetime.fromisoformat(values["received_at"]),
        raw=values["event"],
    )
