"""Two orchestrators on one id: one of them writes, whatever is stopped and continued."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from fault_tools import assert_same_trace, comparable_events, mixed_script, wait_for

STALENESS_S = 3.0


@pytest.fixture
def impatient_bench(cheap_bench, monkeypatch):
    """A bench whose leases are stale soon."""
    monkeypatch.setenv("ENVOI_TRACE_LEASE_STALENESS_S", str(STALENESS_S))
    return cheap_bench


def test_the_second_of_two_is_refused_and_leaves_nothing(cheap_bench):
    bench = cheap_bench
    bench.script({"text": "on"}, {"sleep": 600})
    first = bench.start("--max-turns", "1")
    wait_for(lambda: bench.parts() >= 1, "the first part")
    before = bench.journal().stat().st_ino
    second = bench.run("--max-turns", "1")
    assert second.exit_status == 2
    assert f"process {first.pid}" in second.stderr
    assert "envoi-trace stop t1" in second.stderr
    assert bench.journal().stat().st_ino == before
    first.send_signal(signal.SIGINT)
    out, error = first.communicate(timeout=100)
    assert first.returncode == 130, error
    assert json.loads(out.strip().splitlines()[-1])["parts"] == 1
    assert bench.sandboxes() == []


def test_a_stalled_orchestrator_is_replaced_and_writes_nothing_when_it_wakes_up(impatient_bench, tmp_path):
    bench = impatient_bench
    parts = 40
    bench.script(*mixed_script(parts, pause_s=0.25, turn_every=15))
    undisturbed = bench.run("--max-turns", "3", trajectory_id="whole")
    assert undisturbed.summary["parts"] == parts, undisturbed.stderr
    first = bench.start("--max-turns", "3")
    wait_for(lambda: bench.parts() >= 8, "eight parts")
    os.kill(first.pid, signal.SIGSTOP)
    time.sleep(STALENESS_S + 1)
    second = bench.start("--max-turns", "3")
    wait_for(lambda: bench.parts() >= 16 or second.poll() is not None, "the second goes on")
    os.kill(first.pid, signal.SIGCONT)
    said, error = first.communicate(timeout=100)
    assert first.returncode == 5, error
    assert "took over" in error + said
    assert "Traceback" not in error
    _, error = second.communicate(timeout=200)
    assert second.returncode == 0, error
    run = bench.finished()
    assert_same_trace(run, undisturbed)
    assert comparable_events(run) == comparable_events(undisturbed)
    assert run.rows[-1]["session_end_reason"] == "turn_limit"
    assert bench.sandboxes() == []


def test_a_staleness_that_makes_no_sense_is_refused(cheap_bench, monkeypatch):
    monkeypatch.setenv("ENVOI_TRACE_LEASE_STALENESS_S", "soon")
    cheap_bench.script({"text": "a"})
    run = cheap_bench.run("--max-turns", "1")
    assert run.exit_status == 2
    assert "ENVOI_TRACE_LEASE_STALENESS_S" in run.stderr
