"""The benchmark of many trajectories with few of them: none is lost, also when it is killed in the middle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "batch.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.mark.skipif(not BENCHMARK.exists(), reason="benchmarks/ is not part of a source distribution")
def test_none_of_twelve_is_lost_though_it_is_killed(tmp_path):
    words = ["--trajectories", "12", "--concurrency", "4", "--parts", "4", "--kill"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *words], env={"PATH": "/usr/bin:/bin:/usr/local/bin", "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=480, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(("lost", "before")))
    assert lines["lost"] == "0"
    assert "were left as they are" in lines["before"]
    for figure in ("wall time", "parts a second", "memory", "each further one"):
        assert figure in done.stdout
