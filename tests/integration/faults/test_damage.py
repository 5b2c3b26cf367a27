"""Damaged, empty and foreign files in place of each that a run keeps: a clear word, no traceback, the rest readable."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fault_tools import mixed_script

PARTS = 12


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def corrupt(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x5A for byte in data[middle : middle + 40]) + data[middle + 40 :]


def empty(_data: bytes) -> bytes:
    return b""


def foreign(_data: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


DAMAGES = [truncated, corrupt, empty, foreign]
STORED = {
    "trace": "trace.parquet",
    "bundle": "repo.bundle",
    "config": "resume/config.json",
    "segment": "resume/journal/000001.jsonl",
    "event segment": "resume/events/000001.jsonl",
    "increment": "resume/repository/000001.bundle",
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A folder with the work, state, task and environment of a run that ended by its budget, and of another one."""
    return tmp_path_factory.mktemp("recorded")


@pytest.fixture
def damaged(cheap_bench, recorded, tmp_path, monkeypatch):
    """A bench with two runs: damage what you like, the other must stay readable."""
    monkeypatch.setenv("ENVOI_TRACE_LEASE_STALENESS_S", "4")  # a foreign lease is watched for that long
    bench = cheap_bench
    if not (recorded / "done").exists():
        bench.script(*mixed_script(PARTS))
        for trajectory_id in ("t1", "other"):
            run = bench.run("--max-parts", str(PARTS - 2), trajectory_id=trajectory_id)
            assert run.summary["reason"] == "part_limit", run.stderr
        for name in ("work", "state"):
            shutil.copytree(tmp_path / name, recorded / name, symlinks=True)
        (recorded / "script.jsonl").write_bytes((bench.task / "script.jsonl").read_bytes())
        (recorded / "done").touch()
    else:
        for name in ("work", "state"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            shutil.copytree(recorded / name, tmp_path / name, symlinks=True)
        shutil.copy(recorded / "script.jsonl", bench.task)
    return bench


READ_BY = {"trace": ("show", "status", "list"), "bundle": ("graph --part",), "config": ("status",)}


def readings(bench, tmp_path: Path, names: Sequence[str]) -> dict[str, subprocess.CompletedProcess[str]]:
    """What these commands say, that only read."""
    commands = {
        "show": ("show", "t1"),
        "status": ("status", "t1"),
        "graph --part": ("graph", "t1", "--part", "3", "--checkout-dest", str(tmp_path / "checkout-t1")),
        "list": ("list",),
    }
    return {name: bench.cli(*commands[name], "--storage", "local") for name in names}


def assert_clear(done: subprocess.CompletedProcess[str], what: str, statuses: tuple[int, ...] = (0, 1, 2)) -> None:
    said = done.stdout + done.stderr
    assert done.returncode in statuses, f"{what}: {said}"
    assert "Traceback" not in said, f"{what}: {said}"
    assert "fault of envoi-trace" not in said, f"{what}: {said}"
    if done.returncode:
        assert "error: " in done.stderr, f"{what}: {said}"


def assert_other_is_whole(bench) -> None:
    assert "part_limit" in bench.cli("show", "other", "--storage", "local").stdout


def damage(path: Path, how: Callable[[bytes], bytes]) -> None:
    path.write_bytes(how(path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_artifact_is_named_and_the_rest_is_read(damaged, tmp_path, how):
    for what in ("trace", "bundle", "config"):
        name = STORED[what]
        path = damaged.root / "trajectories" / "t1" / name
        kept = path.read_bytes()
        damage(path, how)
        shutil.rmtree(tmp_path / "checkout-t1", ignore_errors=True)
        for command, done in readings(damaged, tmp_path, READ_BY[what]).items():
            assert_clear(done, f"{command} with a {how.__name__} {what}")
            if command in ("show", "list", "status"):  # this machine's journal has all of it
                assert done.returncode == 0, done.stderr
        path.write_bytes(kept)
    assert_other_is_whole(damaged)


@pytest.mark.parametrize("how", DAMAGES)
def test_without_this_machine_a_damaged_trace_is_an_error_of_its_own(damaged, tmp_path, how):
    shutil.rmtree(damaged.state)
    path = damaged.root / "trajectories" / "t1" / "trace.parquet"
    damage(path, how)
    found = readings(damaged, tmp_path, ("show", "status", "list", "graph --part"))
    for command, done in found.items():
        assert_clear(done, f"{command} with a {how.__name__} trace", (0,) if command == "list" else (1, 2))
    assert str(path) in found["show"].stderr
    assert_clear(damaged.cli("show", str(path)), f"show {path}", (1, 2))
    assert_other_is_whole(damaged)


@pytest.mark.parametrize("how", [corrupt, empty])
@pytest.mark.parametrize("what", ["config", "segment", "event segment", "increment", "trace"])
def test_going_on_elsewhere_with_damaged_files_is_refused_or_right(damaged, tmp_path, what, how):
    damage(damaged.root / "trajectories" / "t1" / STORED[what], how)
    shutil.rmtree(damaged.state)
    trace = damaged.root / "trajectories" / "t1" / "trace.parquet"
    before = trace.read_bytes()
    done = damaged.cli("resume", "t1", "--storage", "local", "--max-parts", str(PARTS), "--no-auto-resume")
    assert_clear(done, f"resume with a {how.__name__} {what}")
    if done.returncode:
        assert trace.read_bytes() == before
    else:
        assert [row["part"] for row in damaged.finished().rows] == list(range(1, PARTS + 1))
    assert_other_is_whole(damaged)


@pytest.mark.parametrize("how", [truncated, foreign])
@pytest.mark.parametrize("name", ["journal.jsonl", "events.jsonl", "repo.git/HEAD", "lease"])
def test_damage_of_this_machines_files_is_told_and_the_storage_helps(damaged, tmp_path, name, how):
    path = damaged.journal().parent / name
    if name == "lease":
        path = damaged.root / "trajectories" / "t1" / "resume" / "lease.json"
        path.write_bytes(how(b'{"nonce": "abc", "host": "there", "machine": "x", "pid": 1}'))
    else:
        damage(path, how)
    for command in ("show", "status"):
        assert_clear(damaged.cli(command, "t1", "--storage", "local"), f"{command} with a {how.__name__} {name}")
    run = damaged.run("--max-parts", str(PARTS))
    assert "Traceback" not in run.stderr
    assert run.exit_status in (0, 1, 5), run.stderr
    if run.exit_status == 0:
        assert [row["part"] for row in run.rows] == list(range(1, PARTS + 1))
    else:
        assert "error: " in run.stderr
        assert "show" in run.stderr or "mend" in run.stderr
    assert_other_is_whole(damaged)
