"""`graph` on real trajectories: charts of a whole one, and the repository of one that goes on or died."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

COMMAND = [sys.executable, "-m", "envoi_trace_core", "graph"]


def elsewhere(bench, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command on another machine: the same storage, and nothing of the run's own state."""
    environ = {**bench.environ, "ENVOI_TRACE_STATE_DIR": str(tmp_path / "other-state")}
    return subprocess.run(
        [*COMMAND, *words], cwd=bench.root, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def increments(bench) -> list[Path]:
    return sorted((bench.root / "trajectories" / "t1" / "resume" / "repository").glob("*.bundle"))


def stored_parts(bench, tmp_path: Path) -> int:
    words = [sys.executable, "-m", "envoi_trace_core", "show", "t1", "--storage", "local", "--json"]
    environ = {**bench.environ, "ENVOI_TRACE_STATE_DIR": str(tmp_path / "other-state")}
    done = subprocess.run(words, cwd=bench.root, env=environ, capture_output=True, text=True, check=False)
    return done.stdout.count('"part_type"')


def test_the_repository_of_a_run_that_goes_on_and_then_dies(bench, tmp_path, wait_until):
    bench.script({"write": "a.txt", "content": "one"}, {"write": "a.txt", "content": "two"}, {"sleep": 300})
    process = bench.start()
    try:
        wait_until(lambda: bench.parts() >= 2, timeout_s=120)
        wait_until(lambda: increments(bench) and stored_parts(bench, tmp_path) >= 2, timeout_s=120)
        live = bench.cli("graph", "t1", "--part", "1", "--checkout-dest", str(tmp_path / "live"), "--storage", "local")
        assert live.returncode == 0, live.stderr
        assert (tmp_path / "live" / "a.txt").read_text() == "one"
        away = elsewhere(bench, tmp_path, "t1", "--part", "2", "--checkout-dest", str(tmp_path / "away"))
        assert away.returncode == 0, away.stderr
        assert (tmp_path / "away" / "a.txt").read_text() == "two"
    finally:
        bench.kill_hard(process)
    assert not (bench.root / "trajectories" / "t1" / "repo.bundle").exists()
    path = str(bench.root / "trajectories" / "t1" / "trace.parquet")
    for number, words in enumerate((["t1", "--storage", "local"], [path])):
        for part, content in ((1, "one"), (2, "two")):
            folder = tmp_path / f"dead-{number}-{part}"
            done = elsewhere(bench, tmp_path, *words, "--part", str(part), "--checkout-dest", str(folder))
            assert done.returncode == 0, done.stderr
            assert (folder / "a.txt").read_text() == content
            assert not (folder / ".git").exists()
    charts = elsewhere(bench, tmp_path, "t1", "--output", str(tmp_path / "charts"))
    assert charts.returncode == 0, charts.stderr
    assert "has not ended" in charts.stderr


def test_what_came_after_the_bundle_is_found_too(bench, tmp_path, wait_until):
    """A run that ended, and went on: its `repo.bundle` is of the earlier end."""
    bench.script(
        {"write": "a.txt", "content": "one"}, {"text": "Hm."}, {"write": "a.txt", "content": "two"}, {"sleep": 300}
    )
    run = bench.run("--max-parts", "2")
    assert run.exit_status == 0, run.stderr
    assert (run.folder / "repo.bundle").exists()
    stored = len(increments(bench))
    process = bench.start("--max-parts", "50")
    try:
        wait_until(lambda: len(increments(bench)) > stored and stored_parts(bench, tmp_path) >= 3, timeout_s=120)
    finally:
        bench.kill_hard(process)
    for part, content in ((1, "one"), (3, "two")):
        done = elsewhere(bench, tmp_path, "t1", "--part", str(part), "--checkout-dest", str(tmp_path / f"at{part}"))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"at{part}" / "a.txt").read_text() == content


def test_a_damaged_increment_is_told_on_one_line(bench, tmp_path, wait_until):
    bench.script({"write": "a.txt", "content": "one"}, {"sleep": 300})
    process = bench.start()
    try:
        wait_until(lambda: increments(bench) and stored_parts(bench, tmp_path) >= 1, timeout_s=120)
    finally:
        bench.kill_hard(process)
    increments(bench)[0].write_bytes(b"no bundle")
    done = elsewhere(bench, tmp_path, "t1", "--part", "1", "--checkout-dest", str(tmp_path / "at1"))
    assert done.returncode == 1
    assert "can't be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "at1").exists()


def test_the_charts_of_the_merge_sort_example(bench, tmp_path):
    examples = Path(__file__).parents[2] / "examples"
    words = [
        *COMMAND[:-1], "--agent", "script", "--sandbox", "local", "--storage", "local", "--trajectory-id", "ms",
        "--task", str(examples / "tasks" / "merge_sort"), "--env", str(examples / "environments" / "merge_sort"),
    ]  # fmt: skip
    subprocess.run(words, cwd=bench.root, env=bench.environ, capture_output=True, check=True, timeout=300)
    done = bench.cli("graph", "ms", "--json", "--storage", "local")
    assert done.returncode == 0, done.stderr
    names = ["passed_by_part.png", "suites_by_part.png", "passed_by_time.png", "suites_by_time.png"]
    paths = [bench.root / path for path in json.loads(done.stdout)["files"]]
    assert [path.name for path in paths] == [*names, "graph_data.json", "report.html"]
    assert {path.parent.name for path in paths} == {"graph-ms"}
    assert [each["passed"] for each in json.loads(paths[4].read_bytes())["evaluations"]] == [2, 5, 9]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[:4])
    svg = bench.cli("graph", "ms", "--format", "svg", "--output", "charts", "--storage", "local")
    assert svg.returncode == 0, svg.stderr
    assert sorted(path.suffix for path in (bench.root / "charts").iterdir()) == [".html", ".json", *[".svg"] * 4]
