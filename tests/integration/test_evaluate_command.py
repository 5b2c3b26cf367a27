"""`envoi-trace evaluate` by the real command: real runs, real sandboxes, real signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import anyio
import pytest

from envoi_trace_core.analysis.evaluate_pool import TestPool, open_sandbox
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.builtin.local_sandbox.spec import LOCAL_SANDBOX
from envoi_trace_core.domain.environments import load_environment
from envoi_trace_core.specs import SandboxRequest

pytestmark = pytest.mark.slow

SLOW_WHEN_41 = """
import time
import envoi

suite = envoi.suite("files")

@suite.test()
async def answer():
    text = (envoi.session_path() / "answer.txt").read_text()
    if text == "40":
        time.sleep(600)
    return {"passed": int(text == "42"), "failed": int(text != "42"), "total": 1}
"""


def a_run(bench, *answers, options=()):
    """One commit an answer."""
    bench.script(*({"write": "answer.txt", "content": str(answer)} for answer in answers))
    run = bench.run("--max-parts", str(len(answers)), *options)
    assert run.exit_status == 0, run.stderr
    return run


def evaluate(bench, *words):
    return bench.cli("evaluate", "t1", "--env", str(bench.environment), "--sandbox", "local", *words)


def report_of(run):
    (path,) = (run.folder / "evaluations").iterdir()
    return json.loads(path.read_text())


def test_all_commits_equal_trees_once_and_again_only_the_rest(bench):
    run = a_run(bench, 1, 42, 1, 7)
    done = evaluate(bench, "--commits", "1,3", "--json")
    assert done.returncode == 0, done.stderr
    report = report_of(run)
    assert [(each["part"], each["counts"]["passed"]) for each in report["commits"]] == [(1, 0), (3, 0)]
    # The later one has the same files.
    assert [each["duration_ms"] > 0 for each in report["commits"]] == [True, False]
    assert json.loads(done.stdout)["evaluated"] == 2
    done = evaluate(bench)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "/4  part" in line]
    assert [line.split("[")[0] for line in told] == ["3/4  part 4 ", "4/4  part 2 "]
    report = report_of(run)
    assert [each["counts"]["passed"] for each in report["commits"]] == [0, 1, 0, 0]
    assert report["environment_hash"] == report["run_environment_hash"] == run.trace.trajectory.environment_hash
    assert report["test_paths"] == ["files/has_answer", "files/never"]
    assert "as in the run" in done.stdout
    assert not bench.sandboxes()
    assert not (run.folder / "resume" / "lease.json").exists()


def test_new_tests_on_an_old_trajectory_and_into_its_trace(bench):
    run = a_run(bench, 1, 42, 7)
    before = run.trace
    assert before.end.reason == "part_limit"
    bench.main_py(
        "import envoi\n@envoi.test()\nasync def seven():\n"
        '    good = (envoi.session_path() / "answer.txt").read_text() == "7"\n'
        '    return {"passed": int(good), "failed": int(not good), "total": 1}\n'
    )
    refused = evaluate(bench, "--commits", "last", "--write")
    assert refused.returncode == 2
    assert "would keep their old results" in refused.stderr
    done = evaluate(bench, "--concurrency", "2")
    assert done.returncode == 0, done.stderr
    report = report_of(run)
    assert report["environment_hash"] != report["run_environment_hash"]
    assert {each["environment_hash"] for each in report["commits"]} == {report["environment_hash"]}
    assert [each["solved"] for each in report["commits"]] == [False, False, True]
    assert "not the version of the run" in done.stdout
    assert run.trace.evaluations == before.evaluations
    done = evaluate(bench, "--write")
    assert done.returncode == 0, done.stderr
    after = run.trace
    assert [found.counts.passed for found in after.evaluations.values()] == [0, 0, 1]
    assert after.trajectory.environment_hash == report["environment_hash"]
    assert after.summary.test_paths == ("seven",)
    assert after.summary.solved_commit == report["commits"][-1]["commit"]
    # A resume has the same, and sees that there is nothing left to do.
    resumed = bench.cli("resume", "t1", "--json", "--max-parts", "9")
    assert json.loads(resumed.stdout)["reason"] == "solved", resumed.stderr


def test_ctrl_c_saves_what_is_there_and_leaves_no_sandbox(bench, wait_until):
    a_run(bench, 40, 41, 42, options=("--eval-grace", "0"))
    bench.main_py(SLOW_WHEN_41)
    words = ["evaluate", "t1", "--env", str(bench.environment), "--sandbox", "local"]
    process = subprocess.Popen(
        [*bench.argv()[:3], *words], cwd=bench.root, env=bench.environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    while "2/3" not in "".join(lines):
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    assert bench.sandboxes()
    # While it is at work, it holds the trajectory.
    second = evaluate(bench)
    assert second.returncode == 2
    assert "is being run by process" in second.stderr
    cleanup = bench.cli("cleanup", "--yes")
    assert "ended 0 of 1" in cleanup.stdout
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on with it" in said
    assert not bench.sandboxes()
    report = report_of(bench.finished())
    assert [each["part"] for each in report["commits"]] == [2, 3]


def test_after_a_kill_the_same_command_takes_its_sandbox_over(bench, wait_until):
    run = a_run(bench, 40, 42, options=("--eval-grace", "0"))
    bench.main_py(SLOW_WHEN_41)
    words = ["evaluate", "t1", "--env", str(bench.environment), "--sandbox", "local", "--output", "report.json"]
    process = subprocess.Popen(
        [*bench.argv()[:3], *words], cwd=bench.root, env=bench.environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    file = bench.root / "report.json"
    wait_until(lambda: file.exists() and '"completed"' in file.read_text(), timeout_s=100)
    bench.kill_hard(process)
    assert len(bench.sandboxes()) == 1
    done = bench.cli(*words, "--commits", "last")
    assert done.returncode == 0, done.stderr
    assert "1/1  part" not in done.stderr, "it was there already"
    done = bench.cli(*words, "--commits", "last", "--again")
    assert done.returncode == 0, done.stderr
    assert "1/1  part 2" in done.stderr
    assert not bench.sandboxes()
    assert not (run.folder / "evaluations").exists()


def test_what_can_not_be_evaluated(bench):
    run = a_run(bench, 1, 42)
    for words, message in (
        (["t1", "--env", "nowhere"], "no environment folder"),
        (["t1", "--env", str(bench.environment), "--commits", "3"], "out of range"),
        (["t1", "--env", str(bench.environment), "--part", "1", "--commits", "last"], "both"),
        (["nope", "--env", str(bench.environment)], "unknown trajectory"),
        (["t1", "--env", str(bench.environment), "--sandbox", "loca"], "Did you mean 'local'"),
        ([str(run.folder), "--env", str(bench.environment), "--write"], "--write needs the trajectory's id"),
    ):
        done = bench.cli("evaluate", "--sandbox", "local", *words)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
    bench.main_py("raise SystemExit('no tests today')")
    done = evaluate(bench)
    assert done.returncode == 1
    assert "no tests today" in done.stderr
    assert "Traceback (most recent" not in done.stderr.split("error:")[0]
    assert not bench.sandboxes()


def test_a_trace_and_its_bundle_by_their_path(bench, tmp_path):
    run = a_run(bench, 1, 42)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("trace.parquet", "repo.bundle"):
        shutil.copy(run.folder / name, elsewhere / name)
    done = bench.cli("evaluate", str(elsewhere), "--env", str(bench.environment), "--sandbox", "local")
    assert done.returncode == 0, done.stderr
    (report,) = (elsewhere / "evaluations").iterdir()
    assert [each["counts"]["passed"] for each in json.loads(report.read_text())["commits"]] == [0, 1]
    (elsewhere / "repo.bundle").unlink()
    done = bench.cli("evaluate", str(elsewhere), "--env", str(bench.environment), "--sandbox", "local", "--again")
    assert "put the trajectory's repo.bundle beside its trace" in done.stderr


@pytest.mark.anyio
async def test_a_sandbox_that_is_lost_is_replaced_and_its_commit_tested_again(bench):
    bench.main_py(SLOW_WHEN_41)
    results, opened, one_is_there = [], [], anyio.Event()

    async def export(commit, folder):
        folder.mkdir()
        # The first time the test hangs, and the sandbox is taken away meanwhile.
        (folder / "answer.txt").write_text("40" if commit == "b" and len(opened) == 1 else "42")

    async def take(evaluation):
        one_is_there.set()
        results.append((evaluation.commit, evaluation.status, evaluation.counts.passed))

    def request(number):
        return SandboxRequest(
            name=f"pool-{number}", trajectory_id="pool", role="evaluation", lifetime_s=600, runs_model=False,
            report=lambda _line: None,
        )  # fmt: skip

    class Opening:
        def __init__(self, number):
            self.context = open_sandbox(LOCAL_SANDBOX, LocalSandboxOptions(), request(number))

        async def __aenter__(self):
            opened.append(await self.context.__aenter__())
            return opened[-1]

        async def __aexit__(self, *error):
            return await self.context.__aexit__(*error)

    pool = TestPool(
        environment=load_environment(Path(bench.environment)), concurrency=1, timeout_s=60, open=Opening, export=export,
        on_paths=lambda _paths: None, on_result=take, report=print,
    )  # fmt: skip

    async def lose_first():
        await one_is_there.wait()
        await anyio.sleep(0.3)
        await opened[0].close()

    async with anyio.create_task_group() as group:
        group.start_soon(lose_first)
        group.start_soon(partial(pool.run, ["a", "b", "c"]))
    assert sorted(results) == [("a", "completed", 1), ("b", "completed", 1), ("c", "completed", 1)]
    assert len(opened) == 2
