"""`graph` and `compare` by the command line: what is written where, and what a slip says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def store(folder: Path) -> Callable[..., None]:
    def put(*makers) -> None:
        for maker in makers:
            target = folder / "trajectories" / maker.trajectory_id
            target.mkdir(parents=True)
            (target / "trace.parquet").write_bytes(maker.data)

    return put


def says(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line, or two with the mend; no traceback."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("storage:", "warning: plugin"))]
    assert 1 <= len(lines) <= 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


# -- graph -----------------------------------------------------------------------------------------


def test_graph_writes_charts_and_a_report(cli, store, typical, folder):
    store(typical)
    done = cli("graph", "t1", "--format", "svg")
    assert done.returncode == 0, done.stderr
    names = ["passed_by_part.svg", "suites_by_part.svg", "passed_by_time.svg", "suites_by_time.svg"]
    assert done.stdout.split() == [f"graph-t1/{name}" for name in (*names, "graph_data.json", "report.html")]
    assert sorted(path.name for path in (folder / "graph-t1").iterdir()) == sorted(
        [*names, "graph_data.json", "report.html"]
    )
    again = cli("graph", str(folder / "trajectories" / "t1" / "trace.parquet"), "--format", "svg", "--json")
    assert json.loads(again.stdout)["files"][-1] == "graph-t1/report.html"


def test_an_id_from_anywhere_names_no_other_folder(cli, make, folder):
    maker = make("../../up").begin()
    maker.part()
    (folder / "odd.parquet").write_bytes(maker.data)
    done = cli("graph", "odd.parquet", "--format", "svg")
    assert done.returncode == 0, done.stderr
    assert (folder / "graph-.._.._up" / "report.html").is_file()
    done = cli("graph", "odd.parquet", "--part", "1", "--checkout-dest", "new")
    assert done.returncode == 2
    says(done, "can't be a trajectory id")


def test_a_folder_that_can_not_be_written_is_told(cli, store, typical, folder):
    store(typical)
    done = cli("graph", "t1", "--format", "svg", "--output", "/proc/new")
    assert done.returncode == 2
    says(done, "/proc/new can't be written", "--output DIR")


def test_graph_of_a_trace_without_parts(cli, store, make, folder):
    store(make().begin())
    done = cli("graph", "t1", "--output", "charts", "--format", "svg")
    assert done.returncode == 0
    assert "has no part" in done.stderr
    assert json.loads((folder / "charts" / "graph_data.json").read_text())["evaluations"] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["graph"], ["ID"]),
        (["graph", "nothing"], ["unknown trajectory 'nothing'"]),
        (["graph", "t1", "--format", "pgn"], ["'pgn' is no format", "Did you mean 'png'", "--format png"]),
        (["graph", "t1", "--outptu", "x"], ["--outptu"]),
        (["graph", "t1", "--output", "file"], ["--output file: file is no folder"]),
        (["graph", "t1", "--output", "file/below"], ["is no folder"]),
        (["graph", "t1", "--part", "1"], ["--checkout-dest is missing"]),
        (["graph", "t1", "--part", "1", "--checkout-dest", "new", "--output", "x"], ["--output is for charts"]),
        (["graph", "t1", "--part", "99", "--checkout-dest", "new"], ["part 99 is out of range"]),
        (["graph", "file"], ["file is"]),
        (["compare"], ["two trajectories or more, not 0"]),
        (["compare", "t1"], ["two trajectories or more, not 1", "envoi-trace graph t1"]),
        (["compare", "t1", "t1"], ["two trajectories or more, not 1"]),
        (["compare", "t1", "trajectories/t1/trace.parquet"], ["name the same trajectory"]),
        (["compare", "t1", "nothing"], ["unknown trajectory 'nothing'"]),
        (["compare", "t1", "t2", "--axis", "token"], ["--axis 'token'", "Did you mean 'tokens'"]),
        (["compare", "t1", "t2", "--axis", "cost"], ["no cost is known"]),
        (["compare", "t1", "t2", "--measure", "x"], ["--measure 'x'"]),
        (["compare", "t1", "t2", "--output", "file"], ["is no folder"]),
        (["compare", "--by", "modle"], ["nothing to group by", "Did you mean 'model'"]),
        (["compare", "--batch", "nihgtly"], ["no trajectory of batch 'nihgtly'", "Did you mean 'nightly'"]),
    ],
)
def test_a_slip_is_told_in_a_line(cli, store, make, folder, words, expected):
    (folder / "file").write_text("no trace")
    first, second = make("t1").begin(batch="nightly"), make("t2").begin()
    for maker in (first, second):
        maker.evaluated({})
    store(first, second)
    done = cli(*words)
    assert done.returncode in (1, 2)
    says(done, *expected)
    assert sorted(path.name for path in folder.iterdir()) == ["file", "trajectories"]


# -- compare ---------------------------------------------------------------------------------------


def test_compare_tells_a_table_and_writes_files(cli, store, make, folder):
    first, second = make("t1").begin(), make("t2").begin(agent="opencode", model="glm")
    first.evaluated({"sort/small": 5}, tokens=1000, cost_usd=0.25).evaluated({})
    second.evaluated(dict.fromkeys(second.paths, 5), tokens=2000, cost_usd=1.5)
    store(first.end(), second.end("solved"))
    done = cli("compare", "t1", "t2", "--axis", "tokens", "--format", "svg")
    assert done.returncode == 0, done.stderr
    for words in ("codex gpt-5.5", "opencode glm", "5/20", "1 (1 still)", "20/20", "never", "100% of paths", "$1.5000"):
        assert words in done.stdout, words
    assert "agents cut their work into parts differently" in done.stderr
    assert {path.name for path in (folder / "compare").iterdir()} == {"passed_by_tokens.svg", "report.html"}
    data = json.loads(cli("compare", "t1", "t2", "--json", "--format", "svg").stdout)
    assert [each["end"]["tokens"] for each in data["trajectories"]] == [1000, 2000]
    assert data["trajectories"][1]["reached"][-1]["at"]["part"] == 1
    assert data["files"] == ["compare/passed_by_parts.svg", "compare/report.html"]


def test_compare_groups_of_a_batch(cli, store, make, folder):
    makers = []
    for trial in range(4):
        for agent, solves in (("codex", trial < 3), ("opencode", trial < 1)):
            maker = make(f"{agent}-{trial}").begin(agent=agent, trial=trial, batch="nightly")
            maker.evaluated(dict.fromkeys(maker.paths, 5 if solves else 0), tokens=100, cost_usd=1.0)
            makers.append(maker.end("solved" if solves else "part_limit"))
    makers.append(make("other").begin(batch="weekly"))
    store(*makers)
    (folder / "trajectories" / "broken").mkdir()
    (folder / "trajectories" / "broken" / "trace.parquet").write_bytes(b"no trace")
    done = cli("compare", "--batch", "nightly", "--by", "agent", "--format", "svg")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["agent", "solved"]
    assert "75% (30%-95%)" in lines[1]
    assert "$1.3333" in lines[1]
    assert "1/4" in lines[2]
    assert "broken is left out" in done.stderr
    data = json.loads(cli("compare", "--by", "batch", "--json", "--format", "svg").stdout)
    assert {group["name"]: group["counted"] for group in data["groups"]} == {"nightly": 8, "weekly": 0}
    named = json.loads(cli("compare", "codex-0", "opencode-0", "--by", "agent", "--json", "--format", "svg").stdout)
    assert [group["trajectories"] for group in named["groups"]] == [1, 1]


# -- large ones ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_10000_parts_and_1000_evaluations_take_bounded_time_and_memory(store, make, folder):
    paths = tuple(f"suite{number % 26}/test{number}" for number in range(104))
    maker = make(paths=paths).begin()
    for number in range(1, 10_001):
        if number % 10 == 0:
            maker.evaluated(dict.fromkeys(paths[: number // 100], 5), tokens=10)
        else:
            maker.part(tool_output="hay " * 300, tokens=10)
    other = make("t2").begin(agent="opencode")
    other.evaluated({})
    store(maker.end(), other)
    for words in (["graph", "t1"], ["compare", "t1", "t2"], ["compare", "--by", "agent"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "envoi_trace_core", *words], cwd=folder, stdout=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert used.ru_utime + used.ru_stime < 200, words
        peak_bytes = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        assert peak_bytes < 900 * 1024**2, words
    assert (folder / "graph-t1" / "report.html").stat().st_size < 30_000_000
