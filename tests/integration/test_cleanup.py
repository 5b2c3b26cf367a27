"""Sandboxes that a killed run left are found and ended; those of a run that is alive stay."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

WORDS = ("cleanup", "--sandbox", "local", "--storage", "local")


def test_cleanup_ends_what_a_killed_run_left_and_nothing_else(bench, wait_until):
    bench.script({"text": "on"}, {"sleep": 60})
    process = bench.start()
    wait_until(lambda: bench.parts() >= 1, timeout_s=60)
    alive = len(bench.sandboxes())
    assert alive >= 1
    done = bench.cli(*WORDS, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"ended 0 of {alive}" in done.stdout
    assert len(bench.sandboxes()) == alive
    bench.kill_hard(process)
    listed = bench.cli(*WORDS)
    assert "t1" in listed.stdout
    assert len(bench.sandboxes()) == alive
    ended = bench.cli(*WORDS, "--yes")
    assert ended.returncode == 0, ended.stderr
    assert f"ended {alive} of {alive}" in ended.stdout
    assert bench.sandboxes() == []
    assert "no sandboxes" in bench.cli(*WORDS, "--yes").stderr
