"""`envoi-trace fork`: a new trajectory from the workspace of any part of another one."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow

STORAGE = ("--storage", "local")


def fork(bench, *options):
    return bench.cli("fork", "t1", *STORAGE, "--trajectory-id", "t2", "--json", *options)


def workspace(bench, trajectory_id: str, part: int):
    folder = bench.root / f"{trajectory_id}-at-{part}"
    done = bench.cli("graph", trajectory_id, "--part", str(part), "--checkout-dest", str(folder), *STORAGE)
    assert done.returncode == 0, done.stderr
    return {
        str(path.relative_to(folder)): (path.read_text(), path.stat().st_mode & 0o111)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_fork_starts_from_the_workspace_of_the_part_and_says_where_it_came_from(bench):
    bench.script(
        {"write": "a.txt", "content": "one"},
        {"run": "mkdir bin && echo 'echo hi' > bin/hi && chmod +x bin/hi"},
        {"write": "a.txt", "content": "two"},
        {"run": "rm -r bin"},
    )
    origin = bench.run("--max-parts", "4")
    assert origin.exit_status == 0, origin.stderr
    bench.script({"text": "let me look"}, {"run": "cat a.txt; bin/hi"}, {"write": "b.txt", "content": "new"})
    forked = fork(bench, "--at-part", "2", "--max-parts", "3")
    assert forked.returncode == 0, forked.stderr
    run = bench.finished("t2")
    assert [row["part"] for row in run.rows] == [1, 2, 3]
    assert {(row["forked_from"], row["forked_at_part"]) for row in run.rows} == {("t1", 2)}
    assert run.rows[1]["tool_output"] == "onehi\n"
    assert run.rows[0]["repo_checkpoint"] is None
    before = workspace(bench, "t1", 2)
    assert workspace(bench, "t2", 1) == before
    assert workspace(bench, "t2", 3) == {**before, "b.txt": ("new", 0)}
    assert origin.rows == bench.finished("t1").rows


def test_a_fork_of_a_run_that_was_killed(bench, wait_until):
    bench.script({"write": "a.txt", "content": "one"}, {"sleep": 60})
    process = bench.start()
    wait_until(lambda: bench.parts() >= 1, timeout_s=60)
    bench.kill_hard(process)
    bench.script({"run": "cat a.txt"})
    forked = fork(bench, "--at-part", "1", "--max-parts", "1")
    assert forked.returncode == 0, forked.stderr
    assert bench.finished("t2").rows[0]["tool_output"] == "one"


def test_a_fork_of_a_solved_run_is_told_its_task_again(bench):
    bench.main_py(
        "import envoi\n\n@envoi.test()\nasync def passes():\n"
        "    good = (envoi.session_path() / 'a.txt').exists()\n"
        "    return {'passed': int(good), 'failed': 1 - good, 'total': 1}\n"
    )
    bench.script({"text": "thinking"}, {"write": "a.txt", "content": "one"})
    assert bench.run().summary["reason"] == "solved"
    refused = fork(bench, "--at-part", "1")
    assert refused.returncode == 2
    assert "--task is missing" in refused.stderr
    again = fork(
        bench, "--at-part", "1", "--task", str(bench.task), "--env", str(bench.environment), "--agent", "script",
        "--sandbox", "local",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["reason"] == "solved"


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--at-part", "9"), "part 9 is out of range"), (("--at-part", "1", "--trajectory-id", "t1"), "exists")],
)
def test_what_can_not_be_forked(bench, options, says):
    bench.script({"write": "a.txt", "content": "one"})
    assert bench.run("--max-parts", "1").exit_status == 0
    done = fork(bench, *options)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not bench.sandboxes()
