"""What was recorded or exported elsewhere, into a trace: native events through a part parser, or lines of a trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft, UnparsedEvent, UsageDraft
from envoi_trace_core.domain.facts import (
    EventsUnparsed,
    Fact,
    PartRecorded,
    SessionBegun,
    TrajectoryBegun,
    UsageRecorded,
)
from envoi_trace_core.domain.parts import Part, Trajectory
from envoi_trace_core.errors import ConditionFailedError, TraceFormatError, UsageError
from envoi_trace_core.protocols import Absent, PartParser, Storage
from envoi_trace_core.run.completion import part_of
from envoi_trace_core.run.recorder import FINISH_ORDINAL
from envoi_trace_core.trace.encode import TraceEncoder
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.keys import trace_key
from envoi_trace_core.trace.rows import Snapshot

MAX_LINE_CHARS = 64 * 1024 * 1024


async def import_events(
    file: Path, *, event_format: str, parser: PartParser, trajectory_id: str, storage: Storage
) -> TraceState:
    """Parse a file of native events, one a line, and store the trace.

    Raises:
        UsageError: The file can't be read, there is nothing in it that the parser knows as a part, or the id is taken.
    """
    try:
        lines = (await anyio.Path(file).read_text(encoding="utf-8", errors="replace")).splitlines()
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}") from error
    state = TraceState()
    for fact in _facts(lines, parser, trajectory_id, event_format):
        state.apply(fact)
    if not state.part_count:
        raise UsageError(
            f"{file} holds no part that {event_format} knows ({len(lines)} lines)",
            mend="--format names how it was recorded; envoi-trace plugins lists the part parsers",
        )
    await _store(storage, state.snapshot())
    return state


async def import_trace(file: Path, *, trajectory_id: str | None, storage: Storage) -> Snapshot:
    """Store the trace that `envoi-trace export --format jsonl` wrote: the same file as it was.

    Args:
        file: Its lines; `-` for stdin.
        trajectory_id: Another id for it; its own by default.
        storage: Where to.

    Raises:
        UsageError: The file can't be read, or the id is taken.
        TraceFormatError: It is no such export, or is damaged.
    """
    from envoi_trace_core.analysis.jsonl import from_jsonl

    def read() -> Snapshot:
        try:
            with (Path("/dev/stdin") if str(file) == "-" else file).open(encoding="utf-8") as lines:
                return from_jsonl(lines)
        except OSError as error:
            raise UsageError(f"{file} can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise TraceFormatError(f"{file} is no text: {error}") from error
        except TraceFormatError as error:
            raise TraceFormatError(f"{file}: {error.message}", mend=error.mend) from error

    snapshot = await anyio.to_thread.run_sync(read)
    if trajectory_id is not None:
        renamed = attrs.evolve(snapshot.trajectory, trajectory_id=trajectory_id)
        snapshot = attrs.evolve(snapshot, trajectory=renamed)
    await _store(storage, snapshot)
    return snapshot


async def _store(storage: Storage, snapshot: Snapshot) -> None:
    key = trace_key(snapshot.trajectory.trajectory_id)
    try:
        await storage.put(key, TraceEncoder().encode(snapshot), condition=Absent())
    except ConditionFailedError as error:
        raise UsageError(f"{storage.uri(key)} exists already", mend="--trajectory-id names another one") from error


def _facts(lines: Iterable[str], parser: PartParser, trajectory_id: str, event_format: str) -> Iterator[Fact]:
    now = datetime.now(UTC)
    yield TrajectoryBegun(
        trajectory=Trajectory(
            trajectory_id=trajectory_id,
            agent=event_format,
            sandbox="",
            task="",
            environment="",
            started_at=now,
            envoi_trace_version=version("envoi-trace"),
        )
    )
    session_id = "imported"
    yield SessionBegun(session_id=session_id, at=now)
    numbering = _Numbering()
    event = None
    for index, line in enumerate((line for line in lines if line.strip()), 1):
        event = NativeEvent(index=index, session_id=session_id, received_at=now, raw=line[:MAX_LINE_CHARS])
        yield from numbering.facts(event, parser.feed(event), 0)
    if event is not None:
        yield from numbering.facts(event, parser.finish(), FINISH_ORDINAL)


class _Numbering:
    """Gives drafts their numbers, and usage the part it belongs to."""

    def __init__(self) -> None:
        self._count = 0
        self._part_of_call: dict[str, int] = {}

    def facts(self, event: NativeEvent, drafts: Iterable[Draft], first_ordinal: int) -> Iterator[Fact]:
        for ordinal, draft in enumerate(drafts, first_ordinal):
            match draft:
                case PartDraft():
                    yield PartRecorded(part=self._part(event, ordinal, draft))
                case UsageDraft() if self._count:
                    yield UsageRecorded(
                        part=self._part_of_call.get(draft.call_id or "", self._count),
                        usage=draft.usage,
                        cost_usd=draft.cost_usd,
                        event_index=event.index,
                        draft_ordinal=ordinal,
                    )
                case UnparsedEvent():
                    yield EventsUnparsed(event_index=event.index, draft_ordinal=ordinal, reason=draft.reason)
                case _:
                    pass

    def _part(self, event: NativeEvent, ordinal: int, draft: PartDraft) -> Part:
        self._count += 1
        if draft.call_id is not None:
            self._part_of_call[draft.call_id] = self._count
        return part_of(event, ordinal, draft, part=self._count, turn=1, git_commit=None)
