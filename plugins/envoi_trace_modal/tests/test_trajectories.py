"""Whole trajectories by the real command on the fake: a script's, Codex's, and those that something happens to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from modal_bench import Bench, wait_until
from modal_fake.server import FakeModal, Side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def bench(fake: FakeModal, tmp_path: Path) -> Iterator[Bench]:
    made = Bench.make(fake, tmp_path)
    yield made
    assert fake.live() == []


def test_a_script_is_solved(bench: Bench) -> None:
    bench.script(
        {"reasoning": "Think."},
        {"run": "echo out; printf 41 >answer.txt"},
        {"run_tests": ""},
        {"write": "answer.txt", "content": "42"},
        {"run_tests": ""},
    )
    done = bench.run()
    assert (done.exit_status, done.summary["reason"]) == (0, "solved"), done.stderr
    rows = done.rows
    assert rows[1]["tool_output"] == "out\n"
    assert [call["passed"] for row in rows for call in row["envoi_calls"] or []][:1] == [0]
    assert {row["sandbox"] for row in rows} == {"modal"}
    assert (done.folder / "repo.bundle").exists()
    roles = [sandbox.tags["role"] for sandbox in bench.fake.state.sandboxes.values()]
    assert sorted(roles) == ["agent", "evaluation"]
    assert {sandbox.tags["trajectory"] for sandbox in bench.fake.state.sandboxes.values()} == {"t1"}
    token = bench.fake.state.token[1].encode()
    assert not [path for path in done.folder.rglob("*") if path.is_file() and token in path.read_bytes()]


def test_the_environments_dockerfile_is_the_images_beginning(bench: Bench) -> None:
    lines = ["FROM python:3.12-slim", "ENV FLAVOUR=bitter", "RUN echo built"]
    (bench.environment / "Dockerfile").write_text("\n".join(lines))
    bench.script({"run": "printf '%s' $FLAVOUR"})
    done = bench.run("--max-parts", "1")
    assert done.rows[0]["tool_output"] == "bitter"
    built = [line for line in bench.fake.state.built if line.strip()]
    assert [line for line in built if line in lines] == lines
    assert any("envoi-ai" in line for line in built[built.index("RUN echo built") :])


def test_a_sandbox_that_ends_in_the_middle_of_a_turn_is_replaced(bench: Bench) -> None:
    bench.script({"write": "a.txt", "content": "1"}, {"sleep": 3}, {"run": "cat a.txt"}, {"text": "done"})
    process = bench.start("--max-parts", "3")
    wait_until(lambda: bench.parts() >= 1)
    first = bench.sandbox_of("agent")
    bench.fake.end(first)
    done = bench.finish(process)
    assert [row["part_type"] for row in done.rows] == ["patch", "tool", "text"], done.stderr
    assert done.rows[1]["tool_output"] == "1"
    agents = [each.id for each in bench.fake.state.sandboxes.values() if each.tags["role"] == "agent"]
    assert len(agents) == 2
    assert agents[0] == first


@pytest.mark.parametrize(("side", "gone_s"), [("plane", 20), ("router", 3)])
def test_a_side_that_is_gone_for_a_while_costs_nothing(bench: Bench, side: Side, gone_s: float) -> None:
    bench.script({"write": "a.txt", "content": "1"}, {"sleep": 2}, {"run": "cat a.txt"}, {"text": "done"})
    process = bench.start("--max-parts", "3")
    wait_until(lambda: bench.parts() >= 1)
    bench.fake.go(side)
    time.sleep(gone_s)
    bench.fake.come(side)
    done = bench.finish(process)
    assert [row["part_type"] for row in done.rows] == ["patch", "tool", "text"], done.stderr
    assert done.rows[1]["tool_output"] == "1"


def test_ctrl_c_leaves_no_sandbox(bench: Bench) -> None:
    bench.script({"text": "one"}, {"run": "sleep 1000", "timeout_s": 1000})
    process = bench.start()
    wait_until(lambda: bench.parts() >= 1)
    process.send_signal(signal.SIGINT)
    done = bench.finish(process)
    assert (done.exit_status, len(bench.fake.state.sandboxes)) == (130, 2)
    assert [row["content"] for row in done.rows[:1]] == ["one"]


def test_a_run_that_was_killed_goes_on_in_its_sandbox(bench: Bench) -> None:
    bench.script({"write": "a.txt", "content": "1"}, {"sleep": 4}, {"run": "cat a.txt"}, {"text": "done"})
    process = bench.start("--max-parts", "3")
    wait_until(lambda: bench.parts() >= 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert len(bench.fake.live()) == 2
    done = bench.run("--max-parts", "3")
    assert [row["part_type"] for row in done.rows] == ["patch", "tool", "text"], done.stderr
    assert len(bench.fake.state.sandboxes) == 2


def test_cleanup_ends_what_a_killed_run_left(bench: Bench) -> None:
    bench.script({"text": "one"}, {"run": "sleep 1000", "timeout_s": 1000})
    process = bench.start()
    wait_until(lambda: bench.parts() >= 1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    done = bench.cli("cleanup", "--sandbox", "modal", "--yes")
    assert done.returncode == 0, done.stderr
