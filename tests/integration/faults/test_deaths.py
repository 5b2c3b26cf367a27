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
INTERRUPTING = frozenset({"the evaluation sandbox", "the runtime"})
"""Without tests the agent would work on for nothing: its turn is interrupted, and goes on with the next attempt."""
AT_PARTS = (8, 31)
"""What was killed was made again, and is killed again."""


@pytest.fixture(scope="module")
def undisturbed():
    """By whether it holds commands: filled by the first test of this process that needs it."""
    return {}


@pytest.mark.parametrize("victim", VICTIMS)
def test_whatever_dies_nothing_is_lost_and_nothing_is_done_twice(cheap_bench, undisturbed, victim):
    bench = cheap_bench
    commands = victim not in INTERRUPTING
    bench.script(*mixed_script(PARTS, turn_every=15, test_every=20, pause_s=0.05, commands=commands))
    if commands not in undisturbed:
        whole = bench.run(*OPTIONS, trajectory_id="whole", timeout_s=300)
        assert whole.summary["reason"] == "turn_limit", whole.stderr
        undisturbed[commands] = whole
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
    assert_same_trace(run, undisturbed[commands])
    items, expected = items_of(run), items_of(undisturbed[commands])
    assert items == expected
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
