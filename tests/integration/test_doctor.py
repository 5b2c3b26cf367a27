"""`envoi-trace doctor`: what a run would need, said before it is paid for."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def findings(done):
    return {finding["what"]: finding for finding in json.loads(done.stdout)}


def test_what_a_run_needs_is_there(bench):
    done = bench.cli("doctor", "--agent", "script", "--sandbox", "local", "--storage", "local", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = findings(done)
    needed = {what for what, finding in found.items() if finding["is_needed"]}
    assert needed == {"git", "state directory", "agent script", "sandbox local", "storage local"}
    assert all(found[what]["health"] == "ok" for what in needed)


def test_what_is_missing_comes_with_the_command_that_mends_it(bench, monkeypatch):
    monkeypatch.setenv("PATH", str(bench.root))  # neither git nor bubblewrap
    done = bench.cli("doctor", "--agent", "script", "--sandbox", "local", "--storage", "local")
    assert done.returncode == 1
    assert "mend git: apt install git" in done.stdout
    assert "mend sandbox local: install bubblewrap" in done.stdout
    assert "can't start yet" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_agent_is_a_finding(bench):
    done = bench.cli("doctor", "--agent", "skript", "--sandbox", "local", "--storage", "local")
    assert done.returncode == 1
    assert "Did you mean 'script'?" in done.stdout


def test_a_state_directory_that_can_not_be_made_is_a_finding(bench):
    bench.state.write_text("a file")
    done = bench.cli("doctor", "--agent", "script", "--sandbox", "local", "--storage", "local", "--json")
    assert done.returncode == 1
    assert findings(done)["state directory"]["health"] == "missing"
    bench.state.unlink()
