"""The same id once more: it goes on, says that it is done, or is refused as another run."""

from __future__ import annotations

from fault_tools import wait_for


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


def test_after_a_kill_the_same_command_goes_on_at_once(bench):
    bench.script({"text": "on"}, {"sleep": 600})
    process = bench.start()
    wait_for(lambda: bench.parts() >= 1 or process.poll() is not None, "the first part")
    bench.kill_hard(process)
    run = bench.run("--turn-timeout", "2")
    assert run.summary["reason"] == "timeout", run.stderr
