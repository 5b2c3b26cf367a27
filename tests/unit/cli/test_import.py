"""What `envoi-trace import` refuses; what it takes is tested with the plugins whose events it imports."""

from __future__ import annotations

import json
import subprocess
import sys


def envoi_trace(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "envoi_trace_core", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_file_without_a_part_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "foreign.jsonl").write_text(json.dumps({"a": 1}) + "\n")
    done = envoi_trace("import", "foreign.jsonl", "--format", "script-events", cwd=tmp_path)
    assert done.returncode == 2
    assert "no part" in done.stderr
    assert not (tmp_path / "trajectories").exists()


def test_an_unknown_format_is_refused(tmp_path):
    done = envoi_trace("import", "x.jsonl", "--format", "script-event", cwd=tmp_path)
    assert done.returncode == 2
    assert "script-events" in done.stderr
