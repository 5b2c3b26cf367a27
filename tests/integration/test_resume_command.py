"""`envoi-trace resume ID`: the id is enough, from any folder and any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def resume(bench, tmp_path, *words, place="there"):
    """The command on a machine that knows nothing, in a folder of its own."""
    cwd = tmp_path / place
    cwd.mkdir(exist_ok=True)
    environ = {**os.environ, "ENVOI_TRACE_STATE_DIR": str(tmp_path / f"state-{place}")}
    storage = ["--storage", "local", "--storage-opt", f"root={bench.root}"]
    return subprocess.run(
        [sys.executable, "-m", "envoi_trace_core", "resume", *words, *storage, "--json"],
        cwd=cwd, env=environ, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def summary(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_run_that_ended_by_a_budget_goes_on_elsewhere_with_a_larger_one(bench, tmp_path):
    bench.script(*({"run": f"echo {n} >> log.txt"} for n in range(5)))
    first = bench.run("--max-parts", "2", "--label", "kept=yes")
    assert first.summary["reason"] == "part_limit", first.stderr
    done = resume(bench, tmp_path, "t1", "--max-parts", "4")
    assert done.returncode == 0, done.stderr
    assert summary(done)["reason"] == "part_limit"
    rows = bench.finished().rows
    assert [row["part"] for row in rows] == [1, 2, 3, 4]
    assert len({row["git_commit"] for row in rows}) == 4
    assert dict(rows[-1]["labels"]) == {"kept": "yes"}
    config = json.loads((bench.root / "trajectories" / "t1" / "resume" / "config.json").read_text())
    assert (config["max_parts"], config["agent"], config["auto_resume"]) == (4, "script", False)


def test_a_solved_run_and_an_unknown_one_start_nothing(bench, tmp_path):
    bench.main_py(
        "import envoi\n\n@envoi.test()\nasync def passes():\n    return {'passed': 1, 'failed': 0, 'total': 1}\n"
    )
    bench.script({"write": "a.txt", "content": "a"}, {"sleep": 60})
    assert bench.run().summary["reason"] == "solved"
    done = resume(bench, tmp_path, "t1")
    assert done.returncode == 0, done.stderr
    assert "before" in summary(done)["message"]
    unknown = resume(bench, tmp_path, "nothing-of-that-name")
    assert unknown.returncode == 2
    assert "unknown trajectory" in unknown.stderr


def test_another_agents_id_is_refused_with_the_difference_named(bench, tmp_path):
    bench.script({"text": "a"})
    bench.run("--max-turns", "1")
    other = tmp_path / "other-task"
    other.mkdir()
    (other / "en.md").write_text("Something else.")
    (other / "script.jsonl").write_text('{"text": "b"}\n')
    done = resume(bench, tmp_path, "t1", "--task", str(other))
    assert done.returncode == 2
    assert "'task'" in done.stderr
    assert "'other-task'" in done.stderr
