"""A store that is down when a run ends: the run says what to do, and that does it."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from envoi_trace_core.cli.launching import report
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_core.run.outcome import EXIT_UNSAVED, RunEnd, outcome_of
from envoi_trace_core.state import trajectory_dir
from envoi_trace_core.trace.fold import TraceState

pytestmark = pytest.mark.slow


def test_upload_stores_what_only_this_machine_has(bench):
    bench.script({"write": "a.txt", "content": "a"}, {"text": "done"})
    run = bench.run("--max-turns", "1")
    rows = run.rows
    shutil.rmtree(bench.root / "trajectories")
    done = bench.cli("upload", "t1", "--storage", "local")
    assert done.returncode == 0, done.stderr
    assert run.rows == rows
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"events.jsonl.zst", "repo.bundle", "trace.parquet"}
    assert len(bench.tree_at(run, rows[0]["git_commit"]).strip()) == 40


def test_upload_refuses_what_went_on_elsewhere_and_what_is_not_here(bench, tmp_path):
    bench.script(*({"text": f"{n}"} for n in range(4)))
    run = bench.run("--max-parts", "2")
    environ = {**os.environ, "ENVOI_TRACE_STATE_DIR": str(tmp_path / "state-2")}
    there = subprocess.run(
        bench.argv("--max-parts", "3"), cwd=bench.root, env=environ, capture_output=True, text=True, check=False
    )
    assert there.returncode == 0, there.stderr
    assert len(run.rows) == 3
    older = bench.cli("upload", "t1", "--storage", "local")
    assert older.returncode == 2
    assert "went on elsewhere" in older.stderr
    assert len(run.rows) == 3
    shutil.rmtree(bench.state)
    missing = bench.cli("upload", "t1", "--storage", "local")
    assert missing.returncode == 2
    assert "nothing of trajectory t1" in missing.stderr


def test_a_run_that_could_not_save_says_where_it_is_and_what_uploads_it(capsys):
    outcome = outcome_of(TraceState(), RunEnd(reason="part_limit"), "t9", "uri", "uri", ("the store is down",))
    assert outcome.token_usage == TokenUsage()
    assert report(outcome, RunOptions()) == EXIT_UNSAVED == 1
    said = capsys.readouterr().out
    assert "not stored: the store is down" in said
    assert str(trajectory_dir("t9")) in said
    assert "envoi-trace upload t9" in said
