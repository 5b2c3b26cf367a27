"""`envoi-trace --trials N`: several equal trajectories in one process, by the real command."""

from __future__ import annotations

import json
import subprocess

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow


def trials(bench, *options, timeout_s=110):
    words = ["--agent", "script", "--sandbox", "local", "--storage", "local", "--json", "--restart-delay", "0"]
    return subprocess.run(
        bench.command(*words, "--task", str(bench.task), "--env", str(bench.environment), *options),
        cwd=bench.root, env=bench.environ, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def summary(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_each_trial_is_a_trajectory_whose_rows_say_which(bench):
    bench.script({"text": "hello"}, {"write": "a.txt", "content": "a"})
    done = trials(bench, "--trials", "3", "--concurrency", "2", "--max-turns", "1", "--label", "kept=yes")
    assert done.returncode == 0, done.stderr
    told = summary(done)
    assert (told["trials"], told["ended"], told["infrastructure_failures"]) == (3, 3, 0)
    assert f"BATCH: {told['batch']}" in done.stderr
    found = set()
    for folder in (bench.root / "trajectories").iterdir():
        rows = pq.read_table(folder / "trace.parquet").to_pylist()
        assert [row["part_type"] for row in rows] == ["text", "patch"]
        [(batch, trial)] = {(row["batch"], row["trial"]) for row in rows}
        assert folder.name == f"{told['batch']}.script.task.env.t{trial}"
        assert batch == told["batch"]
        assert dict(rows[0]["labels"]) == {"kept": "yes", "cell": "script.task.env"}
        found.add(trial)
    assert found == {1, 2, 3}


def test_the_same_command_with_the_batch_name_runs_what_is_left_only(bench):
    bench.script({"text": "hello"})
    first = trials(bench, "--trials", "1", "--max-turns", "1")
    name = summary(first)["batch"]
    again = trials(bench, "--trials", "2", "--max-turns", "1", "--batch", name)
    assert again.returncode == 0, again.stderr
    told = summary(again)
    assert (told["trials"], told["ended"], told["ended_before"]) == (2, 2, 1)
    assert "t1: begins" not in again.stderr
    assert "t1: goes on" not in again.stderr
    assert len(list((bench.root / "trajectories").iterdir())) == 2


def test_wrong_use_starts_nothing(bench):
    bench.script({"text": "hello"})
    for words, expected in (
        (["--trials", "2", "--trajectory-id", "x"], "--trajectory-id names one trajectory"),
        (["--concurrency", "2"], "--concurrency is of several trajectories"),
        (["--trials", "2", "--batch", "no/name"], "can't be the name of a batch"),
        (["--trials", "2", "--detach", "--launcher", "local"], "--detach needs a launcher"),
        (["--trials", "2", "--agent-opt", "scrpt=x"], "unknown option 'scrpt'"),
    ):
        done = trials(bench, *words)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
    for command in ("resume", "fork"):
        done = bench.cli(command, "t1", "--trials", "2", *(["--at-part", "1"] if command == "fork" else []))
        assert done.returncode == 2
        assert f"--trials is of several trajectories, and `{command}` is of one" in done.stderr
    assert not (bench.root / "trajectories").exists()
