"""The journal loses nothing that it acknowledged, and reads all that is whole."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from envoi_trace_core.domain.facts import CallRecorded, CallsClaimed, TrajectoryEnded, TurnEnded
from envoi_trace_core.errors import StorageError
from envoi_trace_core.trace.convert_facts import fact_from_json, fact_to_json
from envoi_trace_core.trace.journal import Journal, read_journal

WRITE_FOREVER = """
import sys
from pathlib import Path
from envoi_trace_core.domain.facts import TurnBegun
from envoi_trace_core.trace.journal import Journal
from datetime import datetime, UTC

journal = Journal.open(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    number += 1
    journal.append_now(TurnBegun(turn=number, session_id="s", prompt="x" * (number % 7 * 3000), at=datetime.now(UTC)))
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.jsonl"


def write(path, facts):
    with Journal.open(path) as journal:
        for fact in facts:
            journal.append_now(fact)


def all_facts(make):
    at = datetime(2026, 5, 6, tzinfo=UTC)
    return [
        *make.run(12),
        make.unparsed(7),
        CallRecorded(call=make.call("z", {"format": False})),
        CallsClaimed(part=12, call_ids=("z",)),
        TurnEnded(turn=1, at=at, interrupted=True),
        TrajectoryEnded(
            reason="agent_error",
            message="died\n",
            total_parts=12,
            total_turns=1,
            final_commit=None,
            at=at,
            total_events=9,
        ),
    ]


def test_every_kind_of_fact_comes_back_equal(make, path):
    facts = all_facts(make)
    write(path, facts)
    found, damage = read_journal(path)
    assert list(found) == facts
    assert damage == []


def test_text_of_any_kind_survives(make, path):
    strange = 'nul \0, line\u2028ends\r\n, lone \ud83d, pair \U0001f600, "quotes" \\'
    write(path, [make.part(1, content=strange)])
    [fact], _ = read_journal(path)
    assert fact.part.content == strange


def test_an_absent_journal_has_no_facts(path):
    assert read_journal(path) == ([], [])


@pytest.mark.anyio
async def test_appends_from_async_code(make, path):
    async with Journal.open(path) as journal:
        for fact in make.run(3):
            await journal.append(fact)
    assert list(read_journal(path)[0]) == make.run(3)


def test_goes_on_after_every_possible_tear(make, path):
    facts = [make.begun(), make.part(1), make.part(2)]
    write(path, facts)
    whole = path.read_bytes()
    last_line = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last_line, len(whole), 37):
        path.write_bytes(whole[:cut])
        write(path, [make.part(3)])
        found, damage = read_journal(path)
        assert list(found) == [*facts[:2], make.part(3)]
        assert damage == []


def test_a_last_line_without_its_line_end_counts(make, path):
    write(path, [make.begun(), make.part(1)])
    path.write_bytes(path.read_bytes()[:-1])
    assert len(read_journal(path)[0]) == 2
    write(path, [make.part(2)])
    assert list(read_journal(path)[0]) == [make.begun(), make.part(1), make.part(2)]


def test_a_torn_last_line_is_told_and_not_read(make, path):
    write(path, [make.begun(), make.part(1)])
    path.write_bytes(path.read_bytes()[:-5])
    found, damage = read_journal(path)
    assert list(found) == [make.begun()]
    assert [line.line_number for line in damage] == [2]


def test_any_flipped_bit_is_noticed_and_the_rest_read(make, path):
    facts = [make.begun(), make.part(1), make.part(2)]
    write(path, facts)
    whole = path.read_bytes()
    first, second = whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1)
    chooser = random.Random(4)
    for _ in range(60):
        at, bit = chooser.randrange(first, second), chooser.randrange(8)
        flipped = bytearray(whole)
        flipped[at] ^= 1 << bit
        path.write_bytes(flipped)
        found, damage = read_journal(path)
        assert [fact for fact in facts if fact in found] == [facts[0], facts[2]]
        assert len(found) == 2
        assert damage


@pytest.mark.parametrize("junk", [b"\0" * 300, b"\xff\xfe", b"{}", b'{"crc":"00000000",}', b"[1]", b""])
def test_foreign_lines_are_told_and_the_rest_read(make, path, junk):
    write(path, [make.begun()])
    path.write_bytes(path.read_bytes() + junk + b"\n")
    write(path, [make.part(1)])
    found, damage = read_journal(path)
    assert list(found) == [make.begun(), make.part(1)]
    assert [line.line_number for line in damage] == [2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"part_type":"tool"', '"part_type":"strange"'),
        ('"duration_ms":12', '"duration_ms":12.5'),
        ('"summary":"part 1"', '"summary":null'),
        ('"turn":1', '"turn":true'),
        ('"turn":1', '"turn":"1"'),
        ('"envoi_calls":[]', '"envoi_calls":"ab"'),
        ('"kind":"PartRecorded"', '"kind":"Other"'),
        ('"part":1,', ""),
        ("+00:00", ""),
    ],
)
def test_a_value_of_the_wrong_type_is_never_converted(make, old, new):
    text = fact_to_json(make.part(1))
    assert old in text
    with pytest.raises((TypeError, ValueError, KeyError)):
        fact_from_json(text.replace(old, new))


def test_a_field_of_a_newer_version_is_passed_over(make):
    text = fact_to_json(make.part(1)).replace('"turn":1', '"turn":1,"mood":"good"')
    assert fact_from_json(text) == make.part(1)


def test_an_earlier_writer_is_fenced_off_and_what_it_wrote_stays(make, path):
    first = Journal.open(path)
    first.append_now(make.begun())
    with Journal.open(path) as second:
        with pytest.raises(StorageError, match="taken over by another run"):
            first.append_now(make.part(1, content="of the first"))
        second.append_now(make.part(1, content="of the second"))
    found, damage = read_journal(path)
    assert list(found) == [make.begun(), make.part(1, content="of the second")]
    assert damage == []
    first.close()


def test_a_write_that_fails_leaves_the_journal_as_it_was(make, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no right to mount a file system here")
    try:
        path = mount / "journal.jsonl"
        with Journal.open(path) as journal:
            journal.append_now(make.begun())
            with pytest.raises(StorageError, match="no space left") as caught:
                journal.append_now(make.part(1, content="x" * 100_000))
            assert caught.value.mend
            journal.append_now(make.part(1))
        assert read_journal(path) == ([make.begun(), make.part(1)], [])
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_closed_journal_refuses(make, path):
    journal = Journal.open(path)
    journal.close()
    with pytest.raises(StorageError, match="closed"):
        journal.append_now(make.begun())


def test_kill_9_at_any_moment_loses_nothing_that_was_acknowledged(path):
    chooser = random.Random(9)
    acknowledged = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOREVER, str(path), str(acknowledged)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(chooser.random() / 20)
        process.kill()
        said = [int(line) for line in (first + process.communicate(timeout=30)[0]).split()]
        facts, damage = read_journal(path)
        turns = [fact.turn for fact in facts]
        assert turns == list(range(1, len(turns) + 1))
        assert said[-1] <= turns[-1] <= said[-1] + 1
        assert len(damage) <= 1
        acknowledged = turns[-1]
