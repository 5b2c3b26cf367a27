"""Disks that are full, really: a small tmpfs that holds this machine's state, or the storage."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_tools import assert_same_trace, comparable_events, mixed_script, wait_for

SIZE = "24m"
OPTIONS = ("--max-turns", "2")
PARTS = 30


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return filler


@pytest.fixture
def full_state(cheap_bench, tmp_path):
    """A bench whose state, its sandboxes aside, is on a small disk. A test call that can't be recorded fails: none."""
    cheap_bench.script(*mixed_script(PARTS, turn_every=16, test_every=1000, pause_s=0.05))
    options = (*OPTIONS, "--sandbox-opt", f"root={tmp_path / 'sandboxes'}")
    with small_disk(cheap_bench.state):
        yield cheap_bench, options


def test_a_disk_that_fills_up_ends_the_run_and_it_goes_on_when_there_is_room(full_state):
    bench, options = full_state
    undisturbed = bench.run(*options, trajectory_id="whole")
    assert undisturbed.exit_status == 0, undisturbed.stderr
    process = bench.start(*options)
    wait_for(lambda: bench.parts() >= 8, "eight parts")
    filler = fill(bench.state)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 5, said
    assert "no space left" in said.lower()
    assert "Traceback" not in said
    parts = bench.parts()
    assert 8 <= parts < PARTS
    shown = bench.cli("show", "t1", "--storage", "local", "--json")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count('"part_type"') == parts
    filler.unlink()
    run = bench.run(*options)
    assert run.exit_status == 0, run.stderr
    assert_same_trace(run, undisturbed)
    assert comparable_events(run) == comparable_events(undisturbed)


def test_on_a_full_disk_nothing_begins_and_nothing_is_left(full_state):
    bench, options = full_state
    filler = fill(bench.state)
    run = bench.run(*options)
    assert run.exit_status == 5, run.stderr
    assert "no space left" in run.stderr.lower()
    assert "Traceback" not in run.stderr
    assert not {"trace.parquet", "repo.bundle", "events.jsonl.zst"} & {path.name for path in run.folder.glob("*")}
    filler.unlink()
    assert bench.run(*options).exit_status == 0


def test_a_full_storage_ends_no_run_and_is_made_up_for(cheap_bench, tmp_path):
    bench = cheap_bench
    bench.script(*mixed_script(PARTS, turn_every=16, test_every=11, pause_s=0.05))
    undisturbed = bench.run(*OPTIONS, trajectory_id="whole")
    disk = tmp_path / "disk"
    with small_disk(disk):
        storage = ("--storage-opt", f"root={disk}")
        process = bench.start(*OPTIONS, *storage)
        wait_for(lambda: bench.parts() >= 8, "eight parts")
        filler = fill(disk)
        out, said = process.communicate(timeout=400)
        assert process.returncode == 1, said
        assert "no space left" in said
        assert "envoi-trace upload t1" in said
        assert str(bench.journal().parent) in said
        assert '"turn_limit"' in out
        filler.unlink()
        done = bench.cli("upload", "t1", "--storage", "local", *storage)
        assert done.returncode == 0, done.stderr
        run = bench.finished()
        run.storage = disk
        assert_same_trace(run, undisturbed)
        again = bench.run(*OPTIONS, *storage)
        assert again.exit_status == 0, again.stderr
        assert again.summary["reason"] == "turn_limit"
