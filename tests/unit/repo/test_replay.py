"""A part's workspace, out of repo.bundle."""

# Tests block as they like, and odd names need plain bytes.
# ruff: noqa: ASYNC230, ASYNC240, PTH103, PTH112, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import os
import string
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envoi_trace_core.analysis.replay import checkout_part
from envoi_trace_core.errors import TraceFormatError, UsageError


@pytest.fixture
async def bundle(open_run, workspace, tmp_path):
    run = await open_run()
    (workspace / "a").write_text("1")
    (workspace / "b").write_text("22")
    result = await run.checkpoint()
    await run.repository.bundle(tmp_path / "repo.bundle")
    return tmp_path / "repo.bundle", result.commit


@pytest.mark.anyio
async def test_a_plain_folder_without_git(bundle, tmp_path):
    checkout_part(*bundle, tmp_path / "new" / "folder")
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["a", "b"]
    (tmp_path / "empty").mkdir()
    inode = (tmp_path / "empty").stat().st_ino
    checkout_part(*bundle, tmp_path / "empty")
    assert sorted(os.listdir(tmp_path / "empty")) == ["a", "b"]
    assert (tmp_path / "empty").stat().st_ino == inode


@pytest.mark.anyio
async def test_what_is_there_is_never_touched(bundle, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("full", "file", "link"):
        with pytest.raises(UsageError):
            checkout_part(*bundle, tmp_path / name)
    assert os.listdir(tmp_path / "full") == ["mine"]
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.anyio
async def test_a_failure_leaves_nothing(bundle, tmp_path):
    path, commit = bundle
    before = sorted(os.listdir(tmp_path))
    for bad in ("0" * 40, "HEAD", "--help", "", commit[:6] + "zz"):
        with pytest.raises(UsageError):
            checkout_part(path, bad, tmp_path / "out")
    for bounds in ({"max_files": 1}, {"max_total_bytes": 2}):
        with pytest.raises(TraceFormatError, match="bounds"):
            checkout_part(path, commit, tmp_path / "out", **bounds)
    damaged = path.read_bytes()
    for number, content in enumerate((b"", b"PAR1", damaged[:-30], damaged[: len(damaged) // 2], os.urandom(500))):
        other = tmp_path / f"bad{number}"
        other.write_bytes(content)
        with pytest.raises(TraceFormatError, match="can't be read"):
            checkout_part(other, commit, tmp_path / "out")
        other.unlink()
    with pytest.raises(UsageError, match="no bundle"):
        checkout_part(tmp_path / "missing", commit, tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="can't be written"):
        checkout_part(path, commit, tmp_path / "file" / "below")
    (tmp_path / "file").unlink()
    assert sorted(os.listdir(tmp_path)) == before


NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..") and name.lower() != b".git"
) | st.text(string.printable.replace("/", ""), min_size=1, max_size=8).map(str.encode).filter(
    lambda name: name not in (b".", b"..")
)


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(files=st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.binary(max_size=40), max_size=8))
def test_any_name_and_any_bytes_come_back(open_run, make_sandbox, snapshot, files):
    async def round_trip() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            box = make_sandbox(scratch)
            run = await open_run(box, mirror=Path(scratch) / "mirror.git", excludes=())
            written = set()
            for path, content in files.items():
                if any(path[:length] in written for length in range(1, len(path))) or b".gitignore" in path:
                    continue
                full = os.path.join(os.fsencode(box.workspace), *path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                if os.path.isdir(full):
                    continue
                with open(full, "wb") as file:
                    file.write(content)
                written.add(path)
            await run.repository.checkpoint(call_id=None, part=1, at=datetime.now(UTC))
            await run.repository.bundle(Path(scratch) / "b")
            checkout_part(Path(scratch) / "b", run.repository.head, Path(scratch) / "out")
            assert snapshot(Path(scratch) / "out", ignore=()) == snapshot(box.workspace, ignore=())

    anyio.run(round_trip)
