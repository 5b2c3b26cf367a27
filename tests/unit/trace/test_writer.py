"""Snapshots: always whole, one writer a trajectory, through outages, and never in the way of the run."""

# ruff: noqa: ASYNC110 - what is waited for happens in another process or in a storage

from __future__ import annotations

from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest

from envoi_trace_core.errors import StorageError
from envoi_trace_core.trace import writer as writer_module
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.reader import read_header, read_trace
from envoi_trace_core.trace.writer import TraceWriter

pytestmark = pytest.mark.anyio
KEY = "trajectories/t1/trace.parquet"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(writer_module, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(writer_module, "LAST_RETRY_S", 0.05)


async def until(condition):
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.002)


async def test_a_submitted_state_reaches_the_storage(make, storage):
    state = TraceState.of(make.run(3))
    async with TraceWriter.open(storage, "t1", state) as writer:
        writer.submit()
        await until(lambda: writer.written_version == state.version)
    assert len(read_trace(await storage.get(KEY)).rows) == 3


async def test_nothing_is_written_before_anything_began(storage):
    async with TraceWriter.open(storage, "t1", TraceState()) as writer:
        writer.submit()
        await writer.flush(1)
    assert await storage.stat(KEY) is None


async def test_many_submits_become_few_snapshots(make, storage):
    state = TraceState()
    async with TraceWriter.open(storage, "t1", state) as writer:
        for fact in make.run(400):
            state.apply(fact)
            writer.submit(state.version)
        await writer.flush(20)
        puts = storage.puts
        await writer.flush(20)
        assert storage.puts == puts
    assert puts < 10
    assert (await read_header(storage, KEY)).summary.facts == state.version


async def test_a_reader_in_a_loop_never_fails(make, storage):
    state = TraceState.of(make.run(1)[:3])
    seen = []
    is_done = False

    async def read():
        while not is_done:
            if await storage.stat(KEY) is not None:
                trace = read_trace(await storage.get(KEY))
                header = await read_header(storage, KEY)
                assert len(trace.rows) == trace.summary.parts <= header.summary.parts
                seen.append(len(trace.rows))
            await anyio.lowlevel.checkpoint()

    async with TraceWriter.open(storage, "t1", state) as writer, anyio.create_task_group() as group:
        group.start_soon(read)
        for number, fact in enumerate(make.run(60)[3:], 1):
            state.apply(fact)
            writer.submit()
            await anyio.sleep(0.005)
            if number % 20 == 0:
                with anyio.fail_after(20):
                    while len(set(seen)) < number // 20:
                        await anyio.sleep(0.005)
        await writer.flush(20)
        is_done = True
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


async def test_goes_on_from_the_trace_that_is_there(make, storage):
    for parts in (2, 5):
        state = TraceState.of(make.run(parts))
        async with TraceWriter.open(storage, "t1", state) as writer:
            await writer.flush(20)
    assert len(read_trace(await storage.get(KEY)).rows) == 5


async def test_a_second_writer_fences_the_first(make, storage):
    first, second = TraceState.of(make.run(2)), TraceState.of(make.run(4))
    async with TraceWriter.open(storage, "t1", first) as old:
        await old.flush(20)
        async with TraceWriter.open(storage, "t1", second) as new:
            await new.flush(20)
        first.apply(make.part(3, content="of the first"))
        with pytest.raises(StorageError, match="another run of trajectory t1") as caught:
            await old.flush(20)
        assert caught.value.mend == "envoi-trace status t1"
        with pytest.raises(StorageError, match="another run"):
            await old.wait_fenced()
        assert not old.healthy
        first.apply(make.part(4))
        old.submit()
        with pytest.raises(StorageError, match="another run"):
            await old.flush(20)
    assert len(read_trace(await storage.get(KEY)).rows) == 4


async def test_a_fenced_writer_wakes_who_waits_for_it(make, storage):
    state = TraceState.of(make.run(2))
    async with TraceWriter.open(storage, "t1", state) as writer:
        await writer.flush(20)
        await storage.delete(KEY)
        state.apply(make.part(3))
        writer.submit()
        with anyio.fail_after(20), pytest.raises(StorageError, match="written or removed by another run"):
            await writer.wait_fenced()
    assert await storage.stat(KEY) is None


async def test_an_outage_is_outlasted(make, storage):
    state = TraceState.of(make.run(2))
    async with TraceWriter.open(storage, "t1", state) as writer:
        await writer.flush(20)
        storage.is_down = True
        state.apply(make.part(3))
        writer.submit()
        await until(lambda: not writer.healthy)
        assert writer.last_error.message == "the store is down"
        state.apply(make.part(4))
        writer.submit()
        storage.is_down = False
        await until(lambda: writer.healthy and writer.written_version == state.version)
    assert len(read_trace(await storage.get(KEY)).rows) == 4


async def test_a_put_whose_answer_was_lost_is_no_other_writer(make, storage):
    state = TraceState()
    async with TraceWriter.open(storage, "t1", state) as writer:
        for count, fact in enumerate(make.run(12)):
            state.apply(fact)
            storage.lose_answers = count % 3
            await writer.flush(20)
    assert writer.fenced is None
    assert len(read_trace(await storage.get(KEY)).rows) == 12


async def test_flush_gives_up_in_time_and_says_what_to_do(make, storage):
    state = TraceState.of(make.run(2))
    async with TraceWriter.open(storage, "t1", state) as writer:
        storage.is_down = True
        with pytest.raises(StorageError, match="the store is down") as caught:
            await writer.flush(0.1)
        assert caught.value.mend == "envoi-trace upload t1"
        assert caught.value.retryable


async def test_flush_is_bounded_when_the_storage_hangs(make, storage):
    state = TraceState.of(make.run(2))

    class Hanging:
        uri, stat, get = storage.uri, storage.stat, storage.get

        async def put(self, *_, **__):
            await anyio.sleep_forever()

    async with TraceWriter.open(Hanging(), "t1", state) as writer:
        with anyio.fail_after(10), pytest.raises(StorageError, match="did not answer"):
            await writer.flush(0.1)


async def test_an_error_of_the_run_is_not_wrapped(make, storage):
    with pytest.raises(KeyError):
        async with TraceWriter.open(storage, "t1", TraceState.of(make.run(2))):
            raise KeyError("the run's own")


async def test_the_share_of_time_is_bounded(make, storage, monkeypatch):
    """By the pauses that it asks for, not by a clock."""
    pauses, took = [], 0.5
    moments = iter(range(1000))
    monkeypatch.setattr(writer_module, "time", SimpleNamespace(monotonic=lambda: next(moments) * took))
    real = anyio.sleep

    async def sleep(seconds):
        pauses.append(seconds)
        await real(0.01)

    state = TraceState.of(make.run(2))
    async with TraceWriter.open(storage, "t1", state) as writer:
        monkeypatch.setattr(writer_module.anyio, "sleep", sleep)
        writer.submit()
        while not pauses:
            await real(0.002)
    assert pauses[0] / (pauses[0] + took) >= 0.8


async def test_a_snapshot_that_can_not_be_made_never_ends_the_run(make, storage):
    state = TraceState.of([make.begun(), make.part(1, content=object())])
    async with TraceWriter.open(storage, "t1", state) as writer:
        with pytest.raises(StorageError, match="could not be made"):
            await writer.flush(0.2)


async def test_every_put_is_what_encoding_the_state_gives(make, storage):
    state = TraceState.of(make.run(7))
    async with TraceWriter.open(storage, "t1", state) as writer:
        await writer.flush(20)
    assert await storage.get(KEY) == encode_trace(state.snapshot())
