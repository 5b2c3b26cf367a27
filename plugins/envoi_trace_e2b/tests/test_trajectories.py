"""Whole trajectories by the real command on the fake; nothing is left in its books after any."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from e2b_bench import REPOSITORY, Bench, wait_until
from e2b_fake.server import FakeE2b

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUICK = ("--auto-resume", "--restart-delay", "0.2")


@pytest.fixture
def bench(fake: FakeE2b, tmp_path: Path) -> Iterator[Bench]:
    yield Bench.make(fake, tmp_path)
    assert fake.live() == []


def test_merge_sort_is_solved(bench: Bench, tmp_path: Path) -> None:
    examples = REPOSITORY / "examples"
    solving = attrs.evolve(
        bench, task=examples / "tasks" / "merge_sort", environment=examples / "environments" / "merge_sort"
    )
    done = solving.run("--no-auto-resume")
    assert done.exit_status == 0, done.stderr
    assert done.summary["reason"] == "solved"
    assert (done.summary["solved_paths"], done.summary["total_paths"]) == (9, 9)
    assert {row["sandbox"] for row in done.rows} == {"e2b"}
    assert "def key" in done.file_at(done.summary["final_commit"], "merge_sort.py", tmp_path)
    assert (bench.fake.state.created, len(bench.fake.builds)) == (2, 1)
    assert "e2b_fake" not in done.stdout + done.stderr + json.dumps(done.rows, default=str)


def test_a_dockerfile_is_the_place_of_the_agent_and_of_the_tests(bench: Bench) -> None:
    (bench.environment / "words.txt").write_text("42")
    text = "FROM python:3.12-slim\nCOPY words.txt /opt/words.txt\nRUN cp /opt/words.txt /opt/answer\n"
    (bench.environment / "Dockerfile").write_text(text)
    bench.script({"run": "cp /opt/answer answer.txt"})
    done = bench.run("--no-auto-resume", "--eval-sandbox", "shared")
    assert done.summary["reason"] == "solved", done.stderr
    assert bench.fake.state.created == 1


def test_what_e2b_can_not_build_is_said_before_anything_starts(bench: Bench) -> None:
    (bench.environment / "Dockerfile").write_text("FROM a\nFROM b\n")
    bench.script({"text": "hello"})
    done = bench.run("--no-auto-resume")
    assert done.exit_status == 2
    assert f"{bench.environment}/Dockerfile:2: " in done.stderr
    assert "Traceback" not in done.stderr
    assert bench.fake.state.calls == []


def test_no_key_starts_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.script({"text": "hello"})
    monkeypatch.setattr(bench.fake.state, "api_key", "")
    done = bench.run("--no-auto-resume")
    assert done.exit_status == 2
    assert "E2B_API_KEY is not set" in done.stderr
    assert not (bench.root / "trajectories").exists()


def test_the_life_of_a_sandbox_ends_in_the_middle_of_a_turn(bench: Bench, tmp_path: Path) -> None:
    bench.script(
        {"run": "echo one >one.txt"}, {"sleep": 3}, {"run": "cat one.txt; echo two >two.txt"}, {"text": "the end"}
    )
    process = bench.start("--max-turns", "1", *QUICK)
    wait_until(lambda: bench.parts() >= 1)
    bench.fake.end(bench.sandbox_of("agent"))
    done = bench.finish(process)
    assert done.summary["reason"] == "turn_limit", done.stderr
    rows = done.rows
    assert [row["part"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["tool_output"] for row in rows if row["tool_name"] == "shell"] == ["", "one\n"]
    assert done.file_at(done.summary["final_commit"], "two.txt", tmp_path) == "two\n"
    assert bench.fake.state.created > 2


def test_a_kill_of_the_orchestrator_and_a_pause_lose_nothing(bench: Bench) -> None:
    bench.script({"run": "echo one >one.txt"}, {"sleep": 2}, {"run": "cat one.txt"}, {"sleep": 1}, {"text": "the end"})
    process = bench.start("--max-turns", "1", "--no-auto-resume")
    wait_until(lambda: bench.parts() >= 1)
    bench.kill_hard(process)
    live = bench.fake.live()
    assert len(live) == 2
    for sandbox_id in live:
        bench.fake.end(sandbox_id)  # their time is over, nobody extends it: they pause
    assert {sandbox.state for sandbox in bench.fake.state.sandboxes.values()} == {"paused"}
    listed = bench.cli("cleanup", "--sandbox", "e2b")
    assert all(sandbox_id in listed.stdout for sandbox_id in live), listed.stderr
    done = bench.run("--max-turns", "1", "--no-auto-resume")
    assert done.summary["reason"] == "turn_limit", done.stderr
    rows = done.rows
    assert [row["part"] for row in rows] == [1, 2, 3]
    assert [row["tool_output"] or row["content"] for row in rows[1:]] == ["one\n", "the end"]
    assert len({row["session_id"] for row in rows}) == 1
    assert bench.fake.state.created == 2


def test_cleanup_ends_what_a_killed_run_left(bench: Bench) -> None:
    bench.script({"run": "true"}, {"sleep": 60})
    process = bench.start("--no-auto-resume")
    wait_until(lambda: bench.parts() >= 1)
    bench.kill_hard(process)
    bench.fake.end(bench.sandbox_of("agent"))
    done = bench.cli("cleanup", "--sandbox", "e2b", "--yes", "--all")
    assert "ended 2 of 2" in done.stdout, done.stdout + done.stderr


def test_the_api_is_gone_for_a_while(bench: Bench) -> None:
    bench.script({"run": "echo one"}, {"sleep": 2}, {"run": "echo two"}, {"text": "the end"})
    process = bench.start("--max-turns", "1", *QUICK)
    wait_until(lambda: bench.parts() >= 1)
    bench.fake.go("api")
    wait_until(lambda: bench.parts() >= 3)
    bench.fake.come("api")
    done = bench.finish(process)
    assert done.summary["reason"] == "turn_limit", done.stderr
    assert done.summary["parts"] == 3


def test_envd_is_gone_for_a_while(bench: Bench) -> None:
    bench.script({"run": "echo one"}, {"sleep": 2}, {"run": "echo two"}, {"text": "the end"})
    process = bench.start("--max-turns", "1", *QUICK)
    wait_until(lambda: bench.parts() >= 1)
    bench.fake.go("envd")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
    bench.fake.come("envd")
    done = bench.finish(process)
    assert done.summary["reason"] == "turn_limit", done.stderr
    assert done.summary["parts"] == 3


def test_ctrl_c_leaves_nothing(bench: Bench) -> None:
    bench.fake.state.create_delay_s = 1.0
    bench.script({"run": "true"}, {"sleep": 60})
    process = bench.start()
    wait_until(lambda: "POST /v2/sandboxes" in bench.fake.state.calls)
    process.send_signal(signal.SIGINT)
    done = bench.finish(process)
    assert done.exit_status == 130, done.stderr


def test_five_runs_at_once_where_two_sandboxes_are_allowed(bench: Bench) -> None:
    bench.fake.state.limits.sandboxes_at_once = 2
    bench.script({"run": "echo 42 >answer.txt"})
    running = {f"t{number}": bench.start("--no-auto-resume", trajectory_id=f"t{number}") for number in range(5)}
    for name, process in running.items():
        done = bench.finish(process, name)
        assert done.summary["reason"] == "solved", done.stderr
    assert bench.fake.state.most_at_once == 2


def test_five_trials_where_two_sandboxes_are_allowed(bench: Bench) -> None:
    bench.fake.state.limits.sandboxes_at_once = 2
    bench.script({"run": "echo 42 >answer.txt"})
    done = bench.run("--trials", "5", "--concurrency", "5", "--batch", "five", trajectory_id=None)
    assert done.exit_status == 0, done.stderr
    assert len(list((bench.root / "trajectories").glob("*/repo.bundle"))) == 5
    assert bench.fake.state.most_at_once == 2


def test_a_run_longer_than_a_sandbox_lives_moves_into_new_ones(bench: Bench, tmp_path: Path) -> None:
    bench.fake.state.limits.max_life_s = 12
    bench.script(*({"run": f"echo {n} >>log.txt; sleep 1.5"} for n in range(10)), {"text": "the end"})
    done = bench.run("--max-turns", "1", "--sandbox-opt", "max_lifetime_s=12", *QUICK)
    assert done.summary["reason"] == "turn_limit", done.stderr
    assert [row["part"] for row in done.rows] == list(range(1, 12))
    lines = done.file_at(done.summary["final_commit"], "log.txt", tmp_path).split()
    assert lines == [str(n) for n in range(10)], done.stderr
    assert bench.fake.state.created > 2
