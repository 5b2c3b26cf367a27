"""`list` and what it reads: footers only, journals where there is no trace, and filters."""

from __future__ import annotations

import json
import subprocess
import sys

import anyio
import pytest

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.domain.facts import PartRecorded
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import Journal
from envoi_trace_core.trace.keys import config_key, journal_path, resume_prefix, trace_key
from envoi_trace_core.trace.lookup import list_traces, read_trajectory
from envoi_trace_core.trace.reader import read_file_header, read_header
from envoi_trace_core.trace.schema import END_KEY, SUMMARY_KEY, VERSION_KEY

from .conftest import run_facts


@pytest.fixture
def cli(root, command, monkeypatch):
    monkeypatch.chdir(root)

    def run(*words):
        done = command(*words)
        assert done.returncode == 0, done.stderr
        return done

    return run


def listed(root):
    return anyio.run(list_traces, LocalStorage(root))


def keep_journal(trajectory_id, path=None, **changes):
    with Journal.open(path or journal_path(trajectory_id)) as journal:
        for fact in run_facts(trajectory_id, **changes):
            journal.append_now(fact)


def test_a_footer_is_read_without_parsing_what_it_says_of_columns(store, root):
    for number in range(3):
        store(f"t{number}")
    code = (
        "import sys, anyio; from pathlib import Path; from envoi_trace_core.builtin.local_storage import LocalStorage;"
        "from envoi_trace_core.trace.lookup import list_traces;"
        f"found = anyio.run(list_traces, LocalStorage(Path({str(root)!r})));"
        "print(len(found), found[0].header.summary.parts, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "6", "False"]


@pytest.mark.anyio
async def test_words_of_an_agent_in_a_footer_are_no_header(root):
    """Statistics hold the least and the greatest text of a column, so an agent's words stand in the footer too."""
    facts = run_facts("t1", parts=1, reason="timeout")
    forged = "".join(
        f"\x18{chr(len(key))}{key.decode()}\x18\x04null\x00" for key in (VERSION_KEY, END_KEY, SUMMARY_KEY)
    )
    part = next(fact for fact in facts if isinstance(fact, PartRecorded)).part
    object.__setattr__(part, "content", forged)
    object.__setattr__(facts[-1], "message", forged)
    path = root / trace_key("t1")
    path.parent.mkdir(parents=True)
    path.write_bytes(encode_trace(TraceState.of(facts).snapshot()))
    assert path.read_bytes().count(b"\x18" + bytes([len(END_KEY)]) + END_KEY) >= 2
    for header in (read_file_header(path), await read_header(LocalStorage(root), trace_key("t1"))):
        assert header.end.reason == "timeout"
        assert header.end.message == forged
        assert header.summary.parts == 1


def test_a_run_without_a_trace_is_listed_from_its_journal(store, root):
    store("stored")
    # Killed before its first snapshot, on this machine; the configuration says that it is of this storage.
    keep_journal("here", reason=None, parts=4)
    config = root / config_key("here")
    config.parent.mkdir(parents=True)
    config.write_text("{}")
    # On another one.
    keep_journal("there", root / resume_prefix("there") / "journal" / "000001.jsonl", reason=None, parts=2)
    # A journal of a run in another storage, and a run that has only begun.
    keep_journal("another", reason=None)
    starting = root / config_key("starting")
    starting.parent.mkdir(parents=True)
    starting.write_text("{}")
    found = {each.trajectory_id: each.header.summary.parts for each in listed(root)}
    assert found == {"here": 4, "stored": 6, "there": 2}
    assert len(anyio.run(read_trajectory, LocalStorage(root), "there").rows) == 2


def test_a_damaged_trace_gives_way_to_its_journal(store, root):
    store("a").write_bytes(b"PAR1 junk PAR1")
    assert listed(root)[0].header is None
    keep_journal("a", parts=5)
    assert listed(root)[0].header.summary.parts == 5
    assert listed(root)[0].error is None


def test_filters(store, cli):
    store("a", model="m1", batch="night", labels={"team": "x", "kind": "y"})
    store("b", model="m2", agent="codex", labels={"team": "x"}, reason="timeout")
    store("c", task="other", environment="web", reason=None)

    def ids(*words):
        return [each["trajectory_id"] for each in json.loads(cli("list", "--json", *words).stdout)]

    assert sorted(ids()) == ["a", "b", "c"]
    assert ids("--model", "m1") == ids("--batch", "night") == ["a"]
    assert sorted(ids("--label", "team=x")) == ["a", "b"]
    assert ids("--label", "team=x", "--label", "kind=y") == ["a"]
    assert ids("--agent", "codex") == ids("--reason", "timeout") == ["b"]
    assert ids("--task", "other") == ids("--environment", "web") == ids("--reason", "in-progress") == ["c"]
    assert ids("--since", "2026-01-02") != ids("--since", "2027-01-01") == []
    assert ids("--model", "nope") == []
