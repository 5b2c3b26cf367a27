"""trace.parquet: its columns and types as others see them, the way back, and every file that is none."""

from __future__ import annotations

import contextlib
import io
import random
from datetime import UTC, datetime

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envoi_trace_core.domain.facts import PartRecorded, TrajectoryEnded
from envoi_trace_core.errors import KeyMissingError, TraceFormatError
from envoi_trace_core.trace import reader
from envoi_trace_core.trace.encode import TraceEncoder, encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.reader import read_header, read_trace
from envoi_trace_core.trace.schema import trace_schema

AT = datetime(2026, 5, 6, tzinfo=UTC)

# The design's table, in its order; `dictionary` is text that is the same in every row.
COLUMNS = """
trajectory_id agent agent_version model sandbox task environment task_params started_at envoi_trace_version
forked_from forked_at_part batch trial labels task_hash environment_hash
part turn turn_prompt session_id timestamp duration_ms event_index
role part_type item_type summary content tool_name tool_status tool_input tool_output tool_error tool_exit_code
token_usage cost_usd
git_commit repo_checkpoint patch
envoi_calls testing_state evaluation
session_end_reason session_end_total_parts session_end_total_turns session_end_final_commit
""".split()  # noqa: SIM905 - a table to compare with the design


def ended(state, reason="solved"):
    state.apply(
        TrajectoryEnded(
            reason=reason, message="why", total_parts=state.part_count, total_turns=1, final_commit=state.head, at=AT,
            total_events=7,
        )
    )  # fmt: skip
    return state


def as_read(row):
    """What of a row is in the file: ids and single results of calls, and errors of single paths, are not."""
    calls = tuple(
        attrs.evolve(call, call_id=f"part-{row.part.part}-{number}", results=())
        for number, call in enumerate(row.part.envoi_calls, 1)
    )
    evaluation = row.evaluation and attrs.evolve(
        row.evaluation, results=tuple(attrs.evolve(result, error=None) for result in row.evaluation.results)
    )
    return attrs.evolve(row, part=attrs.evolve(row.part, draft_ordinal=0, envoi_calls=calls), evaluation=evaluation)


def test_the_schema_is_the_designs():
    schema = trace_schema()
    assert schema.names == COLUMNS
    types = {field.name: str(field.type) for field in schema}
    assert types["trajectory_id"] == "dictionary<values=string, indices=int32, ordered=0>"
    assert types["started_at"] == types["timestamp"] == "timestamp[us, tz=UTC]"
    assert types["trial"] == types["part"] == types["turn"] == types["tool_exit_code"] == "int32"
    assert types["duration_ms"] == types["event_index"] == "int64"
    assert types["labels"] == "map<string, string>"
    assert types["cost_usd"] == "double"
    assert types["token_usage"] == (
        "struct<input: int64, cached_input: int64, output: int64, reasoning: int64, total: int64>"
    )
    assert types["evaluation"] == (
        "struct<status: string, duration_ms: int64, passed: int32, failed: int32, total: int32, "
        "suites: list<item: struct<path: string, passed: int32, failed: int32, total: int32>>, error: string>"
    )
    assert types["envoi_calls"] == (
        "list<item: struct<path: string, commit: string, timestamp: timestamp[us, tz=UTC], duration_ms: int64, "
        "status_code: int32, error: string, passed: int32, failed: int32, total: int32>>"
    )


def test_plain_pyarrow_reads_it(make):
    state = ended(TraceState.of(make.run(13)))
    data = encode_trace(state.snapshot())
    table = pq.read_table(io.BytesIO(data))
    assert table.schema.equals(trace_schema(), check_metadata=False)
    assert table.num_rows == 13
    assert table.schema.metadata[b"envoi_trace.schema_version"] == b"1.0"
    row = table.slice(5, 1).to_pylist()[0]
    assert row["part"] == 6
    assert row["agent"] == "script"
    assert row["labels"] == [("team", "a")]
    assert row["started_at"] == make.began_at
    assert row["repo_checkpoint"]["changed_files"][1] == {
        "path": "x.png", "status": "added", "additions": None, "deletions": None,
    }  # fmt: skip
    assert [suite["path"] for suite in row["evaluation"]["suites"]] == list(make.paths)
    assert row["evaluation"]["suites"][0] == {"path": "sort/small", "passed": 2, "failed": 0, "total": 2}
    assert {row["session_end_reason"] for row in table.to_pylist()} == {"solved"}
    assert [row["turn_prompt"] for row in table.to_pylist()] == ["Sort.", *[None] * 12]


def test_rows_come_back_equal(make):
    facts = [
        *make.run(40),
        make.part(41, draft_ordinal=3, tool_exit_code=None, duration_ms=None, content=None, summary=""),
    ]
    state = TraceState.of(facts)
    trace = read_trace(encode_trace(state.snapshot()))
    assert trace.rows == tuple(map(as_read, state.rows))
    assert trace.trajectory == state.trajectory
    assert trace.summary == state.summary()
    assert trace.end is None
    assert trace.total_usage == state.total_usage
    assert trace.total_cost_usd == state.total_cost_usd
    assert trace.commits == state.commits
    assert list(trace.evaluations) == list(state.commits)
    assert trace.row(7).part.part == 7
    assert trace.table.schema.names == COLUMNS


def test_one_row_is_read_without_the_others(make, monkeypatch):
    converted = []
    convert = reader.rows_of
    monkeypatch.setattr(reader, "rows_of", lambda table: converted.append(table.num_rows) or convert(table))
    trace = read_trace(encode_trace(TraceState.of(make.run(40)).snapshot()))
    row = trace.row(7)
    assert converted == [1]
    assert row == trace.rows[6]
    for part in (0, -1, 41):
        with pytest.raises(KeyError):
            trace.row(part)


def test_a_trace_can_be_changed_and_written_again(make):
    trace = read_trace(encode_trace(TraceState.of(make.run(9)).snapshot()))
    assert read_trace(encode_trace(trace.snapshot())).rows == trace.rows


def test_a_trajectory_without_parts_still_says_why(make):
    trace = read_trace(encode_trace(ended(TraceState.of([make.begun()]), "envoi_error").snapshot()))
    assert trace.rows == ()
    assert trace.table.num_rows == 0
    assert trace.end.reason == "envoi_error"
    assert trace.end.message == "why"
    assert trace.trajectory.labels == {"team": "a"}


def test_an_encoder_used_again_gives_the_same_as_a_fresh_one(make):
    encoder, state = TraceEncoder(), TraceState()
    for count, fact in enumerate(make.run(600), 1):
        state.apply(fact)
        if count % 97 == 0:
            snapshot = state.snapshot()
            assert encoder.table(snapshot).equals(TraceEncoder().table(snapshot))
    state.apply(make.evaluation("c3", dict.fromkeys(make.paths, True)))
    state.apply(make.usage(2, 5))
    assert encoder.encode(state.snapshot()) == encode_trace(state.snapshot())
    shorter = TraceState.of(make.run(10)).snapshot()
    assert encoder.encode(shorter) == encode_trace(shorter)


def test_rows_that_did_not_change_are_not_made_again(make, monkeypatch):
    from envoi_trace_core.trace import encode

    made = []
    real = encode.part_columns
    monkeypatch.setattr(encode, "part_columns", lambda rows: made.append(len(rows)) or real(rows))
    encoder, state = TraceEncoder(), TraceState.of(make.run(2000))
    encoder.table(state.snapshot())
    made.clear()
    state.apply(make.part(2001))
    state.apply(make.evaluation("c1998", dict.fromkeys(make.paths, True)))
    encoder.table(state.snapshot())
    assert sum(made) <= 512


def test_what_no_column_can_hold_is_mended_and_kept(make):
    part = make.part(1, commit="c1", content="lone \udc80 pair \ud83d\ude00", tool_exit_code=2**40).part
    state = TraceState.of([make.begun(), PartRecorded(part=part), make.usage(1, 2**70), make.part(2)])
    first, second = read_trace(encode_trace(state.snapshot())).rows
    assert first.part.content == "lone \ufffd pair \U0001f600"
    assert first.part.tool_exit_code == 2**31 - 1
    assert first.token_usage.input == 2**63 - 1
    assert second == as_read(state.rows[1])


def test_a_very_large_prompt_stands_in_the_file_once(make):
    random.seed(1)
    params = random.randbytes(50_000).hex()
    state = TraceState.of([make.begun(task_params=params), *(make.part(number) for number in range(1, 300))])
    assert len(encode_trace(state.snapshot())) < 250_000


# -- files that are none ---------------------------------------------------------------------------------


@pytest.fixture
def whole(make) -> bytes:
    return encode_trace(TraceState.of(make.run(60)).snapshot())


def other_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    return sink.getvalue()


def with_metadata(data: bytes, **changes: str) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    new = {f"envoi_trace.{name}".encode(): value.encode() for name, value in changes.items()}
    old = {
        name: value for name, value in pq.read_metadata(io.BytesIO(data)).metadata.items() if name != b"ARROW:schema"
    }
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**old, **new}), sink)
    return sink.getvalue()


BAD = {
    "empty": (lambda _: b"", "is empty"),
    "text": (lambda _: b"hello there, this is no parquet", "no parquet file"),
    "zip": (lambda _: b"PK\3\4" + b"\0" * 100, "no parquet file"),
    "cut": (lambda whole: whole[: len(whole) // 2], "cut off"),
    "cut by one": (lambda whole: whole[:-1], "cut off"),
    "two magics": (lambda _: b"PAR1PAR1", "cut off"),
    "no footer": (lambda _: b"PAR1" + b"\xff" * 60 + b"PAR1", "damaged"),
    "foreign": (lambda _: other_parquet(), "no trace of envoi-trace"),
    "newer": (lambda whole: with_metadata(whole, schema_version="2.0"), "schema version 2.0"),
    "strange version": (lambda whole: with_metadata(whole, schema_version="x"), "schema version x"),
    "bad header": (lambda whole: with_metadata(whole, trajectory="{}"), "damaged"),
    "header no JSON": (lambda whole: with_metadata(whole, summary="{"), "damaged"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_clear_line(whole, spoil, message, tmp_path):
    path = tmp_path / "trace.parquet"
    path.write_bytes(spoil(whole))
    with pytest.raises(TraceFormatError, match=message) as caught:
        read_trace(path)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.anyio
@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
async def test_a_bad_files_footer_is_one_clear_line(whole, spoil, message, storage):
    await storage.put("trajectories/a/trace.parquet", spoil(whole))
    with pytest.raises(TraceFormatError, match=message):
        await read_header(storage, "trajectories/a/trace.parquet")


def test_a_newer_minor_version_is_read(whole):
    assert len(read_trace(with_metadata(whole, schema_version="1.7")).rows) == 60


def test_a_missing_file(tmp_path):
    with pytest.raises(TraceFormatError, match="there is no file"):
        read_trace(tmp_path / "none.parquet")


def test_flipped_bits_give_a_clear_error_or_a_trace(whole):
    """Checksums cover the data of pages; a header of a page may still be wrong without any reader's notice."""
    chooser = random.Random(3)
    read = 0
    for _ in range(80):
        spoiled = bytearray(whole)
        spoiled[chooser.randrange(4, len(whole) - 8)] ^= 1 << chooser.randrange(8)
        with contextlib.suppress(TraceFormatError):
            assert len(read_trace(bytes(spoiled)).rows) >= 0
            read += 1
    assert read < 60


# -- footers ------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_header_of_a_large_trace_is_read_without_its_rows(make, storage):
    random.seed(2)
    facts = [make.begun(), *(make.part(n, content=random.randbytes(20_000).hex()) for n in range(1, 30))]
    state = ended(TraceState.of(facts))
    await storage.put("t", encode_trace(state.snapshot()))
    read = []
    real = type(storage).get

    async def counted(key, *, start=0, length=None):
        data = await real(storage, key, start=start, length=length)
        read.append(len(data))
        return data

    class Counting:
        get = staticmethod(counted)
        stat = storage.stat
        uri = storage.uri

    header = await read_header(Counting(), "t")
    assert header.trajectory == state.trajectory
    assert header.summary == state.summary()
    assert header.end == state.end
    assert sum(read) <= 70_000 < (await storage.stat("t")).size_bytes


@pytest.mark.anyio
async def test_a_footer_beyond_the_first_read(make, storage):
    paths = tuple(f"suite/{number:06d}" for number in range(20_000))
    state = TraceState.of([attrs.evolve(make.begun(), test_paths=paths), make.part(1)])
    await storage.put("t", encode_trace(state.snapshot()))
    assert (await read_header(storage, "t")).summary.test_paths == paths


@pytest.mark.anyio
async def test_a_header_with_a_size_that_is_out_of_date(make, storage):
    await storage.put("t", encode_trace(TraceState.of(make.run(90)).snapshot()))
    assert (await read_header(storage, "t", size_bytes=4000)).summary.parts == 90
    assert (await read_header(storage, "t", size_bytes=40_000_000)).summary.parts == 90


@pytest.mark.anyio
async def test_no_header_where_there_is_nothing(storage):
    with pytest.raises(KeyMissingError):
        await read_header(storage, "trajectories/a/trace.parquet")
