"""The events log keeps what the agent emitted, word for word."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard

from envoi_trace_core.domain.drafts import NativeEvent
from envoi_trace_core.errors import StorageError
from envoi_trace_core.trace.events import EventLog, StoredEvent, compress_events, read_compressed_events, read_events

pytestmark = pytest.mark.anyio
AT = datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)


def event(index: int, raw: str = '{"a": 1}', session_id: str = "s1") -> NativeEvent:
    return NativeEvent(index=index, session_id=session_id, received_at=AT, raw=raw)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


async def test_reads_back_by_session(path):
    async with EventLog.open(path) as log:
        await log.append(event(1), "10")
        await log.append(event(2, session_id="s2"), "5")
        await log.append(event(3, raw="no JSON \ud800 \0 at all"), "20")
        assert list(log.read("s1")) == [event(1), event(3, raw="no JSON \ud800 \0 at all")]
        assert [each.index for each in log.read()] == [1, 2, 3]
        assert (log.last_position("s1"), log.last_position("s2"), log.last_position("s3")) == ("20", "5", None)


async def test_tells_with_which_event_the_agent_handed_back(path):
    async with EventLog.open(path) as log:
        await log.append(event(1), "10")
        await log.append(event(2), "20", hands_back=True)
    assert [(stored.position, stored.hands_back) for stored in read_events(path)] == [("10", False), ("20", True)]


async def test_goes_on_with_the_next_index_after_a_tear(path):
    async with EventLog.open(path) as log:
        await log.append_all([StoredEvent(event=event(index), position=str(index)) for index in (1, 2, 3)])
    path.write_bytes(path.read_bytes()[:-4])
    async with EventLog.open(path) as log:
        assert log.next_index == 3
        await log.append(event(3, raw="again"), "3")
        assert [each.raw for each in log.read()] == ['{"a": 1}', '{"a": 1}', "again"]


async def test_refuses_an_index_out_of_order(path):
    async with EventLog.open(path) as log:
        with pytest.raises(ValueError, match="event 2 where 1 is next"):
            await log.append(event(2), "")
        assert list(read_events(path)) == []


async def test_a_damaged_line_is_a_gap(path):
    async with EventLog.open(path) as log:
        for index in (1, 2, 3):
            await log.append(event(index, raw=f"event {index}"), "")
    path.write_bytes(path.read_bytes().replace(b"event 2", b"event 9"))
    assert [each.event.index for each in read_events(path)] == [1, 3]
    async with EventLog.open(path) as log:
        assert log.next_index == 4


async def test_several_share_one_fsync(path, monkeypatch):
    import os

    real, calls = os.fsync, []
    async with EventLog.open(path) as log:
        monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(1), real(descriptor)))
        await log.append_all([StoredEvent(event=event(index), position="") for index in range(1, 50)])
    assert len(calls) == 1


async def test_the_artifact_holds_the_raw_text_as_a_string(path, tmp_path):
    target = tmp_path / "events.jsonl.zst"
    async with EventLog.open(path) as log:
        await log.append(event(1, raw='{"b":  2}'), "9")
        log.compress_to(target)
    with target.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
    assert [json.loads(line) for line in text.splitlines()] == [
        {"index": 1, "session_id": "s1", "received_at": AT.isoformat(), "event": '{"b":  2}'}
    ]
    assert list(read_compressed_events(target)) == [event(1, raw='{"b":  2}')]


async def test_no_log_gives_an_empty_artifact(path, tmp_path):
    compress_events(path, tmp_path / "out.zst")
    assert list(read_compressed_events(tmp_path / "out.zst")) == []


async def test_a_damaged_artifact_is_told(path, tmp_path):
    target = tmp_path / "events.jsonl.zst"
    async with EventLog.open(path) as log:
        await log.append_all([StoredEvent(event=event(n, raw=str(n) * 50), position="") for n in range(1, 500)])
        log.compress_to(target)
    target.write_bytes(b"no zstd at all")
    with pytest.raises(StorageError, match="damaged"):
        list(read_compressed_events(target))


async def test_an_earlier_writer_is_fenced_off(path):
    first = EventLog.open(path)
    await first.append(event(1), "")
    async with EventLog.open(path) as second:
        with pytest.raises(StorageError, match="taken over"):
            await first.append(event(2), "")
        await second.append(event(2, raw="second"), "")
    assert [each.event.raw for each in read_events(path)] == ['{"a": 1}', "second"]
    first.close()
