"""SIGKILL of the orchestrator: what was recorded is readable, and the same command goes on."""

from __future__ import annotations

import random
import time

import pytest

pytestmark = pytest.mark.slow

LENGTH = 60


def long_script(bench):
    actions = []
    for n in range(LENGTH // 3):
        actions += [{"write": "file.txt", "content": f"{n}\n"}, {"run": f"echo {n} >> log.txt"}, {"text": f"said {n}"}]
    bench.script(*actions)


def comparable(rows):
    """Rows without what must differ between two runs: times, and the commits, which hold times."""
    left_out = {"trajectory_id", "started_at", "timestamp", "duration_ms", "session_id", "git_commit", "evaluation"}
    left_out |= {"testing_state", "event_index", "session_end_final_commit", "envoi_calls", "repo_checkpoint"}
    return [{key: value for key, value in row.items() if key not in left_out} for row in rows]


def test_killed_at_any_moment_it_leaves_a_readable_trace_and_goes_on(bench, tmp_path):
    long_script(bench)
    undisturbed = bench.run("--max-turns", "1", trajectory_id="whole")
    assert undisturbed.exit_status == 0, undisturbed.stderr
    seed = random.Random(7)
    kills = 0
    while kills < 8:
        process = bench.start("--max-turns", "1")
        time.sleep(seed.uniform(0.3, 4.0))  # the moment itself is what is tested
        if process.poll() is not None:
            process.communicate()
            break
        bench.kill_hard(process)
        kills += 1
        journaled = bench.parts()
        if (bench.root / "trajectories" / "t1" / "trace.parquet").exists():
            done = bench.cli("show", "t1", "--storage", "local", "--json")
            assert done.returncode == 0, done.stderr
            assert done.stdout.count('"part_type"') >= journaled - 1
    run = bench.run("--max-turns", "1")
    assert run.exit_status == 0, run.stderr
    assert comparable(run.rows) == comparable(undisturbed.rows)
    for mine, theirs in zip(run.rows, undisturbed.rows, strict=True):
        assert bench.tree_at(run, mine["git_commit"]) == bench.tree_at(undisturbed, theirs["git_commit"])
    assert bench.sandboxes() == []


def test_a_second_run_of_the_same_id_is_refused_while_the_first_lives(bench, wait_until):
    bench.script({"text": "on"}, {"sleep": 60})
    first = bench.start()
    wait_until(lambda: bench.parts() >= 1)
    second = bench.run()
    assert second.exit_status == 2
    assert f"process {first.pid}" in second.stderr
    bench.kill_hard(first)
    third = bench.run("--turn-timeout", "2", timeout_s=90)
    assert third.summary["reason"] == "timeout", third.stderr


def test_the_same_id_with_another_task_is_refused(bench, tmp_path):
    bench.script({"text": "a"})
    bench.run("--max-turns", "1")
    bench.task = bench.task.rename(tmp_path / "other")
    again = bench.run("--max-turns", "2")
    assert again.exit_status == 2
    assert "'task'" in again.stderr
    assert "'other'" in again.stderr


def test_a_run_that_ended_by_a_budget_goes_on_with_a_larger_one(bench):
    bench.script(*({"write": "file.txt", "content": f"{n}\n"} for n in range(10)))
    first = bench.run("--max-parts", "4")
    assert first.summary["reason"] == "part_limit"
    second = bench.run("--max-parts", "6")
    assert second.summary["reason"] == "part_limit", second.stderr
    assert [row["part"] for row in second.rows] == [1, 2, 3, 4, 5, 6]
    assert len({row["git_commit"] for row in second.rows}) == 6


def test_a_solved_run_says_so_and_starts_nothing(bench):
    bench.main_py(
        "import envoi\n\n@envoi.test()\nasync def passes():\n    return {'passed': 1, 'failed': 0, 'total': 1}\n"
    )
    bench.script({"write": "a.txt", "content": "a"}, {"sleep": 60})
    assert bench.run().summary["reason"] == "solved"
    again = bench.run()
    assert again.exit_status == 0
    assert again.summary["reason"] == "solved"
    assert "before" in again.summary["message"]


def test_a_trace_can_be_read_at_every_moment_of_a_run(bench):
    long_script(bench)
    process = bench.start("--max-turns", "1")
    path = bench.root / "trajectories" / "t1" / "trace.parquet"
    seen = []
    while process.poll() is None:
        if path.exists():
            seen.append(len(bench.finished().rows))
    process.communicate()
    assert seen == sorted(seen)
    assert seen[-1] == LENGTH
