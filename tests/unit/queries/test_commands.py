"""`query`, `export` and `import` by the command line, and every example that is documented."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from envoi_trace_core import open_trace
from envoi_trace_core.errors import TraceFormatError, UsageError

EXAMPLES = Path(__file__).parents[3] / "examples" / "reading_traces" / "README.md"
BLOCKS = re.findall(r"(?:### ([^\n]+)\n+)?```(\w+)\n(.*?)```", EXAMPLES.read_text(), re.DOTALL)
SQL = {title: text for title, language, text in BLOCKS if language == "sql"}
(PYTHON,) = (text for _, language, text in BLOCKS if language == "python")


@pytest.fixture
def cli(root, command, monkeypatch):
    monkeypatch.chdir(root)
    return command


@pytest.fixture
def several(store):
    store("a", model="m1")
    store("b", model="m1", passing=(1, 2), reason="part_limit")
    store("c", model="m2", passing=(3,))
    store("d", model="m2", parts=0, reason="envoi_error")


def as_json(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- documented examples ------------------------------------------------------------------------------------


def test_pass_rate_by_agent_and_model(several, cli):
    assert as_json(cli("query", SQL["Pass rate by agent and model"], "--format", "json")) == [
        {"agent": "script", "model": "m2", "environment": "sorting", "runs": 1, "solved": 1, "pass_rate": 1.0,
         "best_share": 1.0},
        {"agent": "script", "model": "m1", "environment": "sorting", "runs": 2, "solved": 1, "pass_rate": 0.5,
         "best_share": 0.833},
    ]  # fmt: skip


def test_parts_to_the_first_success(several, cli):
    found = as_json(cli("query", SQL["Parts to the first success"], "--format", "json"))
    assert [(each["model"], each["runs"], each["reached"], each["median_parts"]) for each in found] == [
        ("m2", 1, 1, 3.0), ("m1", 2, 1, 6.0),
    ]  # fmt: skip


def test_the_paths_that_fail_most(several, cli):
    found = as_json(cli("query", SQL["The test paths that fail most"], "--format", "json"))
    assert [(each["path"], each["evaluations"], each["failing"], each["share"]) for each in found] == [
        ("format", 5, 3, 0.6), ("sort/large", 5, 2, 0.4), ("sort/small", 5, 0, 0.0),
    ]  # fmt: skip


def test_cost(several, cli):
    found = as_json(cli("query", SQL["Cost"], "--format", "json"))
    told = [tuple(each[name] for name in ("model", "runs", "input", "cost_usd", "cost_per_solve")) for each in found]
    assert told == [("m1", 2, 600, 1.5, 1.5), ("m2", 2, 300, 0.75, 0.75)]


def test_what_parts_are_spent_on(several, cli):
    found = as_json(cli("query", SQL["What an agent spends its parts on"], "--format", "json"))
    assert sum(each["parts"] for each in found) == 18
    assert len(SQL) == 5, "each has a test"


def test_the_python_example(several, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    exec(compile(PYTHON, "README.md", "exec"), {"TRAJECTORY": "a"})
    said = capsys.readouterr().out
    assert "solved 6 parts 315 tokens" in said
    assert "part 3 [00000000] 2/6 ['sort/large', 'format']" in said
    assert "part 5 ran sort: 1 passed" in said
    assert "part 6 changed ['a b.py']" in said
    assert "'part_type': 'patch'" in said


# -- query --------------------------------------------------------------------------------------------------


def test_a_table_shows_no_control_characters(several, cli):
    done = cli("query", "SELECT part, content, evaluation.passed AS passed FROM parts WHERE trajectory_id = 'a'")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["part", "content", "passed"]
    assert lines[3].startswith("   3  text of 3 ☃ \\x1b[2J")
    assert lines[3].endswith("2")
    assert lines[1].endswith("-")


def test_csv_and_json_have_every_row_and_a_table_says_how_many_are_missing(store, cli):
    store("a", parts=1200)
    sql = "SELECT part, labels, summary FROM parts ORDER BY part"
    done = cli("query", sql, "--format", "csv")
    found = list(csv.reader(io.StringIO(done.stdout)))
    assert found[0] == ["part", "labels", "summary"]
    assert found[1] == ["1", '{"team": "a"}', "part 1"]
    assert len(found) == 1201
    assert len(as_json(cli("query", sql, "--format", "json"))) == 1200
    done = cli("query", sql)
    assert len(done.stdout.splitlines()) == 1001
    assert "200 more rows: --format csv" in done.stderr


def test_wrong_statements_and_stdin(several, cli):
    done = cli("query", "SELECT nope FROM parts")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len([line for line in done.stderr.splitlines() if not line.startswith("warning: plugin")]) == 3
    assert "(column 8)" in done.stderr
    assert as_json(cli("query", "-", "--format", "json", stdin="SELECT 1 AS one")) == [{"one": 1}]
    assert cli("query", "SELECT 1, 1", "--format", "json").returncode == 2
    assert cli("query", "SELECT 1", "--format", "xml").returncode == 2
    assert as_json(cli("query", "SELECT 1 WHERE false", "--format", "json")) == []


@pytest.mark.slow
def test_ctrl_c_ends_a_query(store, root):
    store("a", parts=3000, passing=())
    sql = "SELECT count(*) FROM parts a, parts b, parts c WHERE a.content || b.content < c.content"
    process = subprocess.Popen(
        [sys.executable, "-m", "envoi_trace_core", "query", sql], cwd=root, env=os.environ, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while "storage:" not in process.stderr.readline():
            pass
        time.sleep(1)  # no sign says that DuckDB is at work; whenever it comes, it must do
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130


def test_what_is_left_out_is_warned_about(several, cli, root):
    (root / "trajectories" / "b" / "trace.parquet").write_bytes(b"PAR1 no")
    done = cli("query", "SELECT count(*) AS n FROM trajectories", "--format", "json")
    assert as_json(done) == [{"n": 3}]
    assert "b is left out" in done.stderr


# -- export and import --------------------------------------------------------------------------------------


def test_out_and_back_by_the_command(several, cli, root, tmp_path):
    file = tmp_path / "a.jsonl"
    done = cli("export", "a", "--format", "jsonl", "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert cli("export", "a", "--format", "jsonl").stdout == file.read_text()
    refused = cli("import", str(file), "--format", "jsonl")
    assert refused.returncode == 2
    assert "--trajectory-id names another one" in refused.stderr
    other = tmp_path / "other"
    done = cli("import", str(file), "--format", "jsonl", "--storage", "local", "--storage-opt", f"root={other}")
    assert done.returncode == 0, done.stderr
    key = "trajectories/a/trace.parquet"
    assert (other / key).read_bytes() == (root / key).read_bytes()
    assert pq.read_metadata(other / key).metadata == pq.read_metadata(root / key).metadata
    with file.open() as lines:  # import reads its stdin by the descriptor
        words = [sys.executable, "-m", "envoi_trace_core", "import", "-", "--format", "jsonl", "--trajectory-id", "a2"]
        done = subprocess.run(words, cwd=root, stdin=lines, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert open_trace(root / "trajectories" / "a2").trajectory.trajectory_id == "a2"
    assert cli("export", "a", "--format", "jsonl", "-o", str(file)).returncode == 2
    file.write_text("{}")
    refused = cli("import", str(file), "--format", "jsonl", "--trajectory-id", "a3")
    assert refused.returncode == 1
    assert str(file) in refused.stderr
    assert not (root / "trajectories" / "a3").exists()
    assert list(tmp_path.glob(".*")) == []


# -- open_trace ---------------------------------------------------------------------------------------------


def test_open_trace_with_a_named_storage(several, root):
    with open_trace("a", storage="local", storage_opts=[f"root={root}"]) as trace:
        assert len(trace.rows) == trace.table.num_rows == 6
        assert list(trace.commits) == list(trace.evaluations)
    assert len(trace.rows) == 6
    with pytest.raises(UsageError, match="unknown storage 'locl'"):
        open_trace("a", storage="locl")
    with pytest.raises(UsageError, match="for a storage that is named"):
        open_trace("a", storage_opts=["root=x"])
    with pytest.raises(TraceFormatError):
        open_trace(root / "nowhere")
