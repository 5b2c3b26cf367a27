"""Who goes first, and what of a tree is sent."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import anyio
import pytest

from envoi_trace_core.background import background_tasks
from envoi_trace_core.errors import HarnessError
from envoi_trace_core.harness import upload
from envoi_trace_core.harness.gate import TestGate


@pytest.mark.anyio
async def test_the_agent_goes_first_and_the_bound_holds() -> None:
    gate = TestGate(1)
    order: list[str] = []
    running = 0
    all_wait = anyio.Event()

    async def use(name: str, *, first: bool) -> None:
        nonlocal running
        async with gate.slot(first=first):
            running += 1
            assert running == 1
            order.append(name)
            await all_wait.wait()
            running -= 1

    async with anyio.create_task_group() as group:
        for name, first in (("holder", False), ("evaluation", False), ("call", True), ("later call", True)):
            group.start_soon(lambda name=name, first=first: use(name, first=first))
            await anyio.wait_all_tasks_blocked()
        all_wait.set()
    assert order == ["holder", "call", "later call", "evaluation"]


@pytest.mark.anyio
async def test_who_gives_up_waiting_loses_no_slot() -> None:
    gate = TestGate(1)
    async with gate.slot(first=False):
        with anyio.move_on_after(0.01):
            async with gate.slot(first=True):
                pytest.fail("there was no slot")
    with anyio.fail_after(1):
        async with gate.slot(first=False):
            pass


@pytest.mark.anyio
async def test_the_body_raises_its_own_error_and_its_tasks_end() -> None:
    ended = anyio.Event()

    async def beside() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def body() -> None:
        async with background_tasks() as group:
            group.start_soon(beside)
            await anyio.wait_all_tasks_blocked()
            raise HarnessError("mine")

    with pytest.raises(HarnessError, match="mine"):
        await body()
    assert ended.is_set()


def names(archive: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return set(opened.getnames())


def test_a_submission_unpacks_whatever_links_it_has(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "program").write_text("x")
    (tree / "program").chmod(0o755)
    (tree / upload.RUNTIMES_OWN).write_text("would be overwritten")
    (tree / "inside").symlink_to("program")
    (tree / "sub" / "up").symlink_to("../program")
    (tree / "absolute").symlink_to("/usr/bin/python3")
    (tree / "out").symlink_to("../../elsewhere")
    (tree / "folder").symlink_to("sub/deep")
    (tree / "by_a_folder").symlink_to("folder/../../../elsewhere")
    (tree / b"caf\xe9".decode("utf-8", "surrogateescape")).write_text("y")
    archive = upload.pack_submission(tree)
    assert names(archive) == {
        "program",
        "inside",
        "sub",
        "sub/deep",
        "sub/up",
        "folder",
        b"caf\xe9".decode("utf-8", "surrogateescape"),
    }
    (tmp_path / "unpacked").mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")  # as the runtime does
    assert (tmp_path / "unpacked" / "program").stat().st_mode & 0o100
    assert (tmp_path / "unpacked" / "sub" / "up").read_text() == "x"


def test_an_environment_is_sent_without_caches(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "main.pyc").write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "case.txt").write_text("x")
    (tmp_path / "main.py").write_text("x")
    assert names(upload.pack_environment(tmp_path)) == {"main.py", "tests/case.txt"}


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big").write_bytes(b"x" * 2_000_000)
    monkeypatch.setattr(upload, "MAX_SUBMISSION_BYTES", 1024 * 1024)
    with pytest.raises(HarnessError, match="larger than 1 MiB"):
        upload.pack_submission(tmp_path)
