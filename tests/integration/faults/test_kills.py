"""SIGKILL of the orchestrator at any moment: the same command goes on, and the trace is as if nothing had been."""

from __future__ import annotations

import random
import time

import attrs
from fault_tools import (
    Reader,
    assert_same_trace,
    comparable_events,
    first_process,
    kill_pid,
    mixed_script,
    trees,
    wait_for,
)

PARTS = 200
KILLS = 30
OPTIONS = ("--max-turns", "3")


@attrs.frozen
class Kill:
    """When: a part is recorded (0: the command has started, PARTS: all are), and a little later."""

    after_part: int
    delay_s: float
    sandbox_too: bool = False
    """As when the machine itself goes down: the next command must restore the workspace."""


def drawn_kills(seed: int) -> list[Kill]:
    draw = random.Random(seed)
    in_run = sorted(draw.sample(range(1, PARTS), KILLS - 10))
    kills = [Kill(part, draw.uniform(0.0, 0.15), sandbox_too=n % 6 == 3) for n, part in enumerate(in_run)]
    # A kill while the next command starts or restores: there is no new part to wait for.
    for n in sorted(draw.sample(range(len(kills)), 6), reverse=True):
        kills.insert(n + 1, Kill(0, draw.uniform(0.2, 1.6)))
    return kills + [Kill(PARTS, draw.uniform(0.0, 0.8)) for _ in range(4)]


def test_killed_at_thirty_moments_it_ends_as_if_nothing_had_happened(cheap_bench):
    bench = cheap_bench
    bench.script(*mixed_script(PARTS))
    undisturbed = bench.run(*OPTIONS, trajectory_id="whole", timeout_s=300)
    assert undisturbed.summary["reason"] == "turn_limit", undisturbed.stderr
    assert len(undisturbed.rows) == PARTS
    kills = drawn_kills(seed=20)
    assert len(kills) == KILLS
    landed = 0
    with Reader(bench.finished()).reading() as reader:
        for kill in kills:
            landed += start_and_kill(bench, kill)
            assert_shown(bench)
        run = bench.run(*OPTIONS, timeout_s=300)
    assert run.summary["reason"] == "turn_limit", run.stderr
    assert landed >= KILLS - 4, "kills came after the end"
    assert_same_trace(run, undisturbed)
    assert comparable_events(run) == comparable_events(undisturbed)
    assert not reader.errors
    assert reader.rows_seen == sorted(reader.rows_seen)
    assert len(set(reader.rows_seen)) > 20
    assert bench.sandboxes() == []


def start_and_kill(bench, kill: Kill) -> bool:
    """Whether the command still ran when it was killed."""
    process = bench.start(*OPTIONS)
    wait_for(lambda: bench.parts() >= kill.after_part or process.poll() is not None, f"part {kill.after_part}")
    time.sleep(kill.delay_s)  # the moment itself is what is tested
    landed = process.poll() is None
    process.kill()
    process.communicate(timeout=30)
    if kill.sandbox_too and bench.sandboxes():
        kill_pid(first_process(bench, "agent"))
    return landed


def assert_shown(bench) -> None:
    """At most the part in flight is missing, and whoever asks is told."""
    parts = bench.parts()
    if parts:
        done = bench.cli("show", "t1", "--storage", "local", "--json")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"part_type"') == parts


def test_a_reader_beside_a_run_never_fails(cheap_bench):
    bench = cheap_bench
    bench.script(*mixed_script(60))
    process = bench.start("--max-turns", "1")
    with Reader(bench.finished()).reading() as reader:
        process.communicate(timeout=200)
    assert process.returncode == 0
    assert not reader.errors
    assert reader.rows_seen == sorted(reader.rows_seen)
    assert len(bench.finished().rows) == 60
    assert len(trees(bench.finished())) >= 18
