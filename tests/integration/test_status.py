"""`envoi-trace status` tells a run that is alive from one that died and one that ended."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def test_status_of_a_run_that_is_alive_then_dead_then_ended(bench, wait_until):
    bench.script({"text": "on"}, {"sleep": 60})

    def status():
        done = bench.cli("status", "t1", "--storage", "local", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    process = bench.start()
    wait_until(lambda: bench.parts() >= 1, timeout_s=60)
    alive = status()
    assert (alive["state"], alive["holder"]["pid"], alive["parts"]) == ("running", process.pid, 1)
    bench.kill_hard(process)
    assert status()["state"] == "died"
    run = bench.run("--max-parts", "1")
    assert run.exit_status == 0, run.stderr
    ended = status()
    assert (ended["state"], ended["reason"], ended["holder"]) == ("ended", "part_limit", None)
    assert "part_limit" in bench.cli("status", "t1", "--storage", "local").stdout
