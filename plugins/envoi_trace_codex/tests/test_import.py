"""`envoi-trace import` of what Codex recorded elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from envoi_trace_core.trace.reader import read_trace

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("log", "event_format", "part_types"),
    [
        ("exec_json/exec_json.jsonl", "codex-exec-json", {"text", "tool"}),
        ("rollout/raw_all_tools.jsonl", "codex-rollout", {"text", "tool"}),
    ],
)
def test_a_recorded_session_becomes_a_trace(tmp_path, log, event_format, part_types):
    command = [sys.executable, "-m", "envoi_trace_core", "import", DATA / log, "--format", event_format]
    done = subprocess.run(
        [*command, "--trajectory-id", "imported"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    trace = read_trace(tmp_path / "trajectories" / "imported" / "trace.parquet")
    assert [part.part for part in trace.parts] == list(range(1, len(trace.parts) + 1))
    assert part_types <= {part.part_type for part in trace.parts}
    assert trace.total_usage.total > 0
