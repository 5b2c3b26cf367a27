"""The wall clock jumps, back and forth: for the orchestrator only, by a shim between it and the C library."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from fault_tools import assert_same_trace, comparable_events, mixed_script, wait_for

from envoi_trace_core.trace.events import read_events

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset_s(void) {
    long offset = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET_FILE"), "r");
    if (file) {
        if (fscanf(file, "%ld", &offset) != 1) offset = 0;
        fclose(file);
    }
    return offset;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    if (result == 0 && clock == CLOCK_REALTIME) at->tv_sec += offset_s();
    return result;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
JUMPS_S = (-7200, 86400, -3600 * 24 * 365, 0)
OPTIONS = ("--max-turns", "3")


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """A file: what it holds is added to the wall clock, in seconds."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler makes the shim here")
    (tmp_path / "shim.c").write_text(SHIM)
    library = tmp_path / "shim.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", library, tmp_path / "shim.c", "-ldl"]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("the shim can't be compiled here")
    file = tmp_path / "offset"
    monkeypatch.setenv("CLOCK_OFFSET_FILE", str(file))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    return file


def jump_while_it_runs(bench, clock, jump_s: int) -> int:
    """Then kill it: what a dead run left must not look alive, or newer than now. Gives the year of the newest event."""
    process = bench.start(*OPTIONS)
    before = bench.parts()
    wait_for(lambda: bench.parts() > before + 2 or process.poll() is not None, "new parts")
    clock.write_text(f"{jump_s}\n")
    wait_for(lambda: bench.parts() > before + 7 or process.poll() is not None, "more parts")
    bench.kill_hard(process)
    *_, newest = read_events(bench.journal().with_name("events.jsonl"))
    return newest.event.received_at.year


def test_a_clock_that_jumps_changes_nothing_but_the_times(cheap_bench, clock):
    bench = cheap_bench
    bench.script(*mixed_script(40, turn_every=15, test_every=12, pause_s=0.1))
    undisturbed = bench.run(*OPTIONS, trajectory_id="whole")
    assert undisturbed.exit_status == 0, undisturbed.stderr
    years = [jump_while_it_runs(bench, clock, jump_s) for jump_s in JUMPS_S]
    run = bench.run(*OPTIONS)
    assert run.exit_status == 0, run.stderr
    assert len(set(years)) > 1, "the clock did not jump"
    assert_same_trace(run, undisturbed)
    assert comparable_events(run) == comparable_events(undisturbed)
    assert all(row["duration_ms"] is None or row["duration_ms"] >= 0 for row in run.rows)
