"""A trace as lines of JSON and back: the same file."""

from __future__ import annotations

import json

import attrs
import pytest

from envoi_trace_core.analysis.jsonl import from_jsonl, to_jsonl
from envoi_trace_core.domain.facts import UsageRecorded
from envoi_trace_core.errors import TraceFormatError, UsageError
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.reader import read_trace, trace_of_snapshot

from .conftest import run_facts

CASES = {
    "whole": {},
    "in progress": {"reason": None, "parts": 4},
    "no part": {"parts": 0, "reason": "envoi_error"},
    "long": {"parts": 700, "model": "m", "batch": "b", "trial": 3, "forked_from": "x", "forked_at_part": 7},
    "odd text": {"labels": {"a\nb": "\u2028 ☃ \ud83d\ude00 \x00"}, "task_params": '{"a": 1}'},
}


def lines_of(data):
    return list(to_jsonl(read_trace(data)))


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_back_is_the_same_file(changes):
    data = encode_trace(TraceState.of(run_facts("t1", **changes)).snapshot())
    lines = lines_of(data)
    assert not any("\n" in line for line in lines)
    assert encode_trace(from_jsonl(lines)) == data


def test_numbers_that_json_lacks_and_texts_that_are_mended():
    facts = [*run_facts("t1"), UsageRecorded(part=1, cost_usd=float("inf"), event_index=3)]
    facts[3] = attrs.evolve(facts[3], part=attrs.evolve(facts[3].part, content="a\ud800b"))
    data = encode_trace(TraceState.of(facts).snapshot())
    lines = lines_of(data)
    for line in lines[1:]:
        json.loads(line, parse_constant=pytest.fail)
    assert encode_trace(from_jsonl(lines)) == data


def test_a_journal_goes_the_same_way():
    state = TraceState.of(run_facts("t1", reason=None))
    lines = list(to_jsonl(trace_of_snapshot(state.snapshot(), state.rows)))
    assert encode_trace(from_jsonl(lines)) == encode_trace(state.snapshot())


def test_a_row_has_the_columns_of_the_table_by_their_names():
    header, *rows = map(json.loads, lines_of(encode_trace(TraceState.of(run_facts("t1")).snapshot())))
    assert header["format"] == "envoi-trace"
    assert header["trajectory"]["trajectory_id"] == "t1"
    assert header["summary"]["parts"] == len(rows) == 6
    assert rows[2]["evaluation"]["suites"][0] == {"path": "sort/small", "passed": 2, "failed": 0, "total": 2}
    assert "agent" not in rows[2]
    assert "patch" not in rows[0]


HEADER, *ROWS = lines_of(encode_trace(TraceState.of(run_facts("t1")).snapshot()))


def changed(line, **values):
    return json.dumps(json.loads(line) | values)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1 is no JSON"),
        (["{}"], 'no "format"'),
        (ROWS, 'no "format"'),
        ([changed(HEADER, schema_version="2.0"), *ROWS], "schema version 2.0"),
        ([changed(HEADER, trajectory={"agent": 1}), *ROWS], "line 1 is damaged"),
        ([HEADER, *ROWS[:-1]], "6 parts, and 5 follow: it is cut"),
        ([HEADER, *ROWS, ROWS[-1]], "not in their order"),
        ([HEADER, *ROWS[:2], "{", *ROWS[3:]], "line 4 is no JSON"),
        ([HEADER, *ROWS[:2], "[1]", *ROWS[3:]], "line 4 is no JSON object"),
        ([HEADER, *ROWS[:2], changed(ROWS[2], turn="x"), *ROWS[3:]], "line 4 is no part"),
        ([HEADER, *ROWS[:2], changed(ROWS[2], part=2**40), *ROWS[3:]], "line 4 is no part"),
        ([HEADER, *ROWS[:2], changed(ROWS[2], timestamp="today"), *ROWS[3:]], "line 4 is no part"),
        ([HEADER, *ROWS[:2], changed(ROWS[2], timestamp="2026-01-01"), *ROWS[3:]], "no time zone"),
        ([HEADER, *ROWS[:2], changed(ROWS[2], part_type="step"), *ROWS[3:]], "'step' is no type of a part"),
        ([HEADER, *ROWS[:2], changed(ROWS[2], session_id=None), *ROWS[3:]], "no 'session_id'"),
        ([HEADER, *ROWS[:2], changed(ROWS[2], evaluation={"status": "completed"}), *ROWS[3:]], "part 3 is damaged"),
        ([HEADER, *ROWS[:2], changed(ROWS[2], envoi_calls=[7]), *ROWS[3:]], "line 4 is no part"),
    ],
)
def test_what_is_no_export_is_refused(lines, message):
    with pytest.raises(TraceFormatError, match=message):
        from_jsonl(lines)


def test_an_id_that_would_be_a_path_is_refused():
    header = json.loads(HEADER)
    header["trajectory"]["trajectory_id"] = "../../x"
    with pytest.raises(UsageError, match="can't be a trajectory id"):
        from_jsonl([json.dumps(header), *ROWS])
