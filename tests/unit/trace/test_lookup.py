"""From words to traces: ids, prefixes, paths, journals that are ahead, listings."""

from __future__ import annotations

import subprocess
import sys

import anyio
import anyio.lowlevel
import pytest

from envoi_trace_core import open_trace
from envoi_trace_core.errors import StorageError, TraceFormatError, UsageError
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import Journal
from envoi_trace_core.trace.keys import journal_path, trace_key
from envoi_trace_core.trace.lookup import list_traces
from envoi_trace_core.trace.reader import read_trajectory, resolve_id


def facts(make, trajectory_id, parts):
    return [make.begun(trajectory_id), *make.run(parts)[1:]]


@pytest.fixture
def store(make, storage):
    async def put(trajectory_id, parts=3):
        data = encode_trace(TraceState.of(facts(make, trajectory_id, parts)).snapshot())
        await storage.put(trace_key(trajectory_id), data)

    return put


@pytest.fixture
def keep(make):
    def write(trajectory_id, parts):
        with Journal.open(journal_path(trajectory_id)) as journal:
            for fact in facts(make, trajectory_id, parts):
                journal.append_now(fact)

    return write


@pytest.mark.anyio
async def test_ids_and_unique_prefixes(store, storage, keep):
    for trajectory_id in ("abc1", "abc2", "abc", "xyz"):
        await store(trajectory_id)
    assert await resolve_id(storage, "x") == "xyz"
    assert await resolve_id(storage, "abc") == "abc"
    assert await resolve_id(storage, "abc2") == "abc2"
    keep("local-only", 1)
    assert await resolve_id(storage, "loc") == "local-only"
    with pytest.raises(UsageError, match="3 trajectories begin with 'ab': abc, abc1, abc2"):
        await resolve_id(storage, "ab")
    with pytest.raises(UsageError, match=r"unknown trajectory 'xzy' in .*trajectories. Did you mean 'xyz'"):
        await resolve_id(storage, "xzy")


@pytest.mark.anyio
@pytest.mark.parametrize("word", ["", ".", "..", "a/b", "../../etc", "x" * 500, "\0"])
async def test_strange_words_are_no_ids(storage, word):
    with pytest.raises((UsageError, StorageError)):
        await resolve_id(storage, word)


@pytest.mark.anyio
async def test_a_journal_that_is_ahead_goes_first(store, storage, keep):
    await store("a", parts=3)
    keep("a", 5)
    assert len((await read_trajectory(storage, "a")).rows) == 5
    await store("a", parts=8)
    assert len((await read_trajectory(storage, "a")).rows) == 8


@pytest.mark.anyio
async def test_a_trajectory_that_is_only_here(storage, keep):
    keep("a", 2)
    trace = await read_trajectory(storage, "a")
    assert [row.part.part for row in trace.rows] == [1, 2]
    assert trace.table.num_rows == 2
    assert trace.end is None


@pytest.mark.anyio
async def test_a_damaged_journal_is_read_and_told(storage, keep):
    keep("a", 4)
    path = journal_path("a")
    path.write_bytes(path.read_bytes().replace(b'"summary":"part 2"', b'"summary":"part X"'))
    trace = await read_trajectory(storage, "a")
    assert [row.part.part for row in trace.rows] == [1, 3, 4]
    assert len(trace.damage) == 1
    assert trace.row(3).part.part == 3
    with pytest.raises(KeyError):
        trace.row(2)


@pytest.mark.anyio
async def test_a_damaged_stored_trace_gives_way_to_the_journal(storage, keep):
    await storage.put(trace_key("a"), b"junk that is no parquet file")
    with pytest.raises(TraceFormatError, match="no parquet"):
        await read_trajectory(storage, "a")
    keep("a", 2)
    assert len((await read_trajectory(storage, "a")).rows) == 2


@pytest.mark.anyio
async def test_a_journal_that_is_no_journal_gives_way_to_the_stored_trace(store, storage):
    await store("a", parts=3)
    journal_path("a").parent.mkdir(parents=True)
    journal_path("a").write_bytes(b"\0" * 5000)
    assert len((await read_trajectory(storage, "a")).rows) == 3


@pytest.mark.anyio
async def test_a_storage_that_is_down_gives_way_to_the_journal(storage, keep):
    keep("a", 2)
    storage.is_down = True
    assert len((await read_trajectory(storage, "a")).rows) == 2


@pytest.mark.anyio
async def test_an_unknown_id(storage):
    with pytest.raises(UsageError, match="there is no trajectory 'a'"):
        await read_trajectory(storage, "a")


@pytest.mark.anyio
async def test_lists_all_with_bounded_reads_and_tells_what_it_can_not_read(store, storage):
    for number in range(30):
        await store(f"t{number:02d}", parts=number % 4)
    await storage.put(trace_key("broken"), b"no")
    await storage.put("trajectories/t00/repo.bundle", b"1")
    await storage.put("trajectories/no-trace/repo.bundle", b"1")
    now, most = 0, 0

    class Counting:
        uri, stat, list = storage.uri, storage.stat, storage.list

        async def get(self, key, **words):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await anyio.lowlevel.checkpoint()
            try:
                return await storage.get(key, **words)
            finally:
                now -= 1

    listed = await list_traces(Counting(), reads_at_once=4)
    assert [each.trajectory_id for each in listed] == ["broken", *(f"t{number:02d}" for number in range(30))]
    assert listed[0].header is None
    assert "no parquet" in listed[0].error.message
    assert listed[4].header.summary.parts == 3
    assert 1 < most <= 4


# -- open_trace -----------------------------------------------------------------------------------------------


@pytest.fixture
def stored(store):
    anyio.run(store, "abc1")


def test_opens_by_id_prefix_path_and_folder(stored, storage, monkeypatch):
    path = storage.root / trace_key("abc1")
    for word in (str(path), path, str(path.parent), path.parent):
        assert len(open_trace(word).rows) == 3
    assert open_trace("abc", storage=storage).trajectory.trajectory_id == "abc1"
    assert open_trace("abc", storage=storage.root).trajectory.trajectory_id == "abc1"
    monkeypatch.chdir(storage.root)
    assert open_trace("abc1").table.num_rows == 3


@pytest.mark.anyio
async def test_opens_inside_a_running_event_loop(store, storage):
    await store("abc1")
    assert len(open_trace("abc1", storage=storage).rows) == 3


def test_what_it_can_not_open(stored, storage, tmp_path):
    with pytest.raises(UsageError, match="unknown trajectory"):
        open_trace("zzz", storage=storage)
    with pytest.raises(TraceFormatError, match="there is no file"):
        open_trace("some/trace.parquet")
    with pytest.raises(TraceFormatError, match="there is no file"):
        open_trace(tmp_path / "none")


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, envoi_trace_core; "
        "print([m for m in ('attrs', 'pyarrow', 'cattrs', 'anyio') if m in sys.modules]); "
        "envoi_trace_core.open_trace"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
