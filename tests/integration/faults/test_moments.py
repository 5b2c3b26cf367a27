"""SIGKILL of the orchestrator at the exact moments between two things that belong together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fault_tools import assert_same_trace, comparable_events, first_process, kill_pid, mixed_script

PARTS = 12
OPTIONS = ("--max-turns", "2")
MOMENTS = (
    # Of the first turn, parts 1 to 6: a change, a test call and its answer, usage, the agent hands back.
    ("SessionBegun", "after"),
    ("TurnBegun", "before"),
    ("TurnBegun", "after"),
    ("PartRecorded", "before"),
    ("CallRecorded", "before"),
    ("CallRecorded", "after"),
    ("UsageRecorded", "before"),
    ("UsageRecorded", "after"),
    ("TurnEnded", "before"),
    ("TurnEnded", "after"),
    # Of the second.
    ("TurnBegun", "before"),
    ("TurnBegun", "after"),
    ("CallRecorded", "after"),
    ("TurnEnded", "before"),
    ("TrajectoryEnded", "before"),
)
"""Of each new start the first fact of that kind: they follow each other as the script does."""


@pytest.mark.parametrize("with_sandbox", [False, True])
def test_killed_between_two_facts_it_ends_as_if_nothing_had_happened(cheap_bench, with_sandbox):
    bench = cheap_bench
    bench.script(*mixed_script(PARTS, turn_every=6, test_every=4))
    undisturbed = bench.run(*OPTIONS, trajectory_id="whole")
    assert undisturbed.summary["reason"] == "turn_limit", undisturbed.stderr
    for kind, when in MOMENTS:
        run_until(bench, kind, when)
        if with_sandbox and bench.sandboxes():
            kill_pid(first_process(bench, "agent"))
    run = bench.run(*OPTIONS)
    assert run.summary["reason"] == "turn_limit", run.stderr
    assert_same_trace(run, undisturbed)
    assert comparable_events(run) == comparable_events(undisturbed)


def run_until(bench, kind: str, when: str) -> None:
    words = bench.argv(*OPTIONS)[len(bench.command()) :]
    program = [sys.executable, str(Path(__file__).with_name("dying_command.py")), kind, when]
    done = subprocess.run(
        [*program, *words], cwd=bench.root, env=bench.environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == -9, f"{when} {kind}: {done.stderr}"
