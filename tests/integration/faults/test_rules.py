"""What a run was told stays true elsewhere; and what goes wrong after its start is an end, never wrong use."""

from __future__ import annotations

import json
import os
import subprocess

from fault_tools import wait_for


def test_a_relative_script_is_found_by_a_resume_from_another_folder(bench, tmp_path):
    lines = [{"text": "one"}, {"text": "two"}, {"text": "three"}]
    (bench.root / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = bench.run("--agent-opt", "script=other.jsonl", "--max-parts", "1")
    assert first.summary["reason"] == "part_limit", first.stderr
    there = tmp_path / "there"
    there.mkdir()
    storage = ["--storage", "local", "--storage-opt", f"root={bench.root}"]
    words = bench.command("resume", "t1", *storage, "--max-parts", "3", "--json")
    environ = {**os.environ, "ENVOI_TRACE_STATE_DIR": str(bench.state)}
    done = subprocess.run(words, cwd=there, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["content"] for row in bench.finished().rows] == ["one", "two", "three"]


def test_a_task_that_vanishes_between_two_attempts_is_a_failure_of_the_run(bench):
    bench.script({"text": "one"}, {"run": "sleep 3"}, {"fail": "over"})
    process = bench.start("--auto-resume", "--restart-delay", "0.1")
    wait_for(lambda: bench.parts() >= 1, "the first part")
    bench.task.rename(bench.task.with_name("moved"))
    out, said = process.communicate(timeout=200)
    assert process.returncode == 5, said
    assert "Traceback" not in said
    assert json.loads(out.strip().splitlines()[-1])["parts"] == 2
    assert bench.finished().rows[-1]["session_end_reason"] == "agent_error"


def test_wrong_use_of_a_run_that_goes_on_starts_nothing_and_changes_nothing(bench):
    bench.script({"text": "one"}, {"text": "two"})
    run = bench.run("--max-parts", "1")
    before = (run.folder / "trace.parquet").read_bytes()
    again = bench.run("--max-parts", "2", "--agent-opt", "script=/nowhere.jsonl")
    assert again.exit_status == 2
    assert "/nowhere.jsonl" in again.stderr
    assert (run.folder / "trace.parquet").read_bytes() == before
