"""What dies beside the orchestrator: sandboxes, the relay, the environment's runtime, the agent. The run goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fault_tools import (
    assert_same_trace,
    comparable_events,
    first_process,
    kill_pid,
    mixed_script,
    pids_of,
    wait_for,
)

PARTS = 45
OPTIONS = ("--auto-resume", "--restart-delay", "0.1", "--max-turns", "3")


def kill_sandbox(bench) -> bool:
    kill_pid(first_process(bench, "agent"))
    return True


def kill_evaluation_sandbox(bench) -> bool:
    kill_pid(first_process(bench, "evaluation"))
    return True


def kill_all(role: str, word: str) -> Callable:
    def kill(bench) -> bool:
        pids = pids_of(bench, role, word)
        for pid in pids:
            kill_pid(pid)
        return bool(pids)

    return kill


VICTIMS = {
    "the sandbox": kill_sandbox,
    "the evaluation sandbox": kill_evaluation_sandbox,
    "the relay": kill_all("agent", "relay_agent.pyz"),
    "the runtime": kill_all("evaluation", "envoi.runtime"),
    "the agent": kill_all("agent", "player.pyz"),
}
UNNOTICED = frozenset({"the evaluation sandbox", "the runtime", "the relay"})
"""What is made again while the agent works on: its turn is not interrupted."""
AT_PARTS = (8, 19, 31)
"""What was killed was made again, and is killed again, once about when a test call begins."""


@pytest.fixture(scope="module")
def undisturbed():
    """The run to compare with: made by the first test of this process that needs it."""
    return []


@pytest.mark.parametrize("victim", VICTIMS)
def test_whatever_dies_nothing_is_lost_and_nothing_is_done_twice(cheap_bench, undisturbed, victim):
    bench = cheap_bench
    bench.script(*mixed_script(PARTS, turn_every=15, test_every=20, pause_s=0.05))
    if not undisturbed:
        undisturbed.append(bench.run(*OPTIONS, trajectory_id="whole", timeout_s=300))
    (whole,) = undisturbed
    assert whole.summary["reason"] == "turn_limit", whole.stderr
    process = bench.start(*OPTIONS)
    kills = 0
    for part in AT_PARTS:
        wait_for(lambda part=part: bench.parts() >= part or process.poll() is not None, f"part {part}")
        wait_for(lambda: process.poll() is not None or attempt(bench, VICTIMS[victim]), f"{victim} is there")
        kills += process.poll() is None
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert kills >= 1
    assert "Traceback" not in said
    run = bench.finished()
    assert run.rows[-1]["session_end_reason"] == "turn_limit"
    assert_same_trace(run, whole)
    if victim in UNNOTICED:
        assert comparable_events(run) == comparable_events(whole)
    else:
        assert items_of(run) == items_of(whole)
    assert bench.sandboxes() == []
    assert bench.processes() == []


def items_of(run) -> list[dict]:
    """The agent's own events less those of turns: an interrupted one is begun again, under its number."""
    return [event for event in comparable_events(run) if not event["type"].startswith("turn.")]


def attempt(bench, kill: Callable) -> bool:
    """Whether there was something to kill; it may just be made again."""
    try:
        return kill(bench)
    except (OSError, ValueError):
        return False
