"""The orchestrator's record: only appended, without secrets, whole after any crash."""

# Tests block as they like, and odd names need plain bytes.
# ruff: noqa: ASYNC220, ASYNC221, ASYNC240

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from envoi_trace_core.errors import SandboxError, StorageError
from envoi_trace_core.repo.checkpoints import SandboxCheckpoints
from envoi_trace_core.repo.git import Git
from envoi_trace_core.repo.mirror import Mirror

pytestmark = pytest.mark.anyio

CANARY = b"sk-canary/0123"


def redact(data: bytes) -> bytes:
    return data.replace(CANARY, b"[REDACTED]")


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=directory, check=True, capture_output=True, text=True, errors="replace"
    ).stdout


async def test_the_bundle_is_cloned_by_plain_git(open_run, workspace, tmp_path, snapshot):
    run = await open_run()
    (workspace / "a").write_text("1")
    result = await run.checkpoint("call_7")
    await run.repository.bundle(tmp_path / "repo.bundle")
    git(tmp_path, "clone", "-q", "repo.bundle", "clone")
    assert snapshot(tmp_path / "clone") == snapshot(workspace)
    shown = git(tmp_path / "clone", "log", "-1", "--format=%H%n%an%n%at%n%B").splitlines()
    assert shown[:4] == [result.commit, "envoi-trace", "1700000001", "part 1"]
    assert "Part: 1" in shown
    assert "Call: c-call_7" in shown


async def test_beginning_again_and_recording_a_part_again_give_what_was_recorded(open_run, workspace):
    run = await open_run()
    start = run.repository.head
    (workspace / "a").write_text("1")
    run.hook("one")
    first = await run.checkpoint("one")
    again = await open_run()
    assert again.repository.head == first.commit
    (workspace / "a").write_text("2")
    run.hook("two")
    assert await again.checkpoint("one", part=1) == first
    second = await again.checkpoint("two", part=2)
    assert second.checkpoint.commit_before == first.commit
    assert first.checkpoint.commit_before == start


async def test_a_test_call_takes_the_commit_of_the_part_that_follows(open_run, workspace):
    run = await open_run()
    assert await run.repository.peek() == run.repository.head
    (workspace / "a").write_text("1")
    peeked = await run.repository.peek()
    assert peeked != run.repository.head
    assert await run.repository.peek() == peeked
    result = await run.checkpoint("one")
    assert result.commit == peeked
    again = await open_run()
    assert (await again.checkpoint("one", part=1)).checkpoint == result.checkpoint
    assert await again.repository.peek() == peeked


async def test_a_test_call_that_no_part_takes_is_in_the_bundle_too(open_run, workspace):
    run = await open_run()
    (workspace / "a").write_text("tested")
    peeked = await run.repository.peek()
    (workspace / "a").write_text("other")
    result = await run.checkpoint()
    assert result.commit != peeked
    assert (await run.checked_out(peeked))[b"a"][1] == b"tested"
    assert await run.repository.tree_of(peeked) != await run.repository.tree_of(result.commit)


async def test_a_secret_is_found_in_no_object_of_the_bundle(open_run, workspace, tmp_path):
    run = await open_run(redact=redact)
    (workspace / "clean").write_text("clean")
    (workspace / "env").write_bytes(b"KEY=" + CANARY + b"\n")
    (workspace / "link").symlink_to(CANARY.decode())
    folder = workspace / CANARY.decode()
    folder.parent.mkdir()
    folder.write_text("named by a secret")
    run.hook(CANARY.decode())
    results = [await run.checkpoint(CANARY.decode())]
    (workspace / "clean").write_text("changed")
    results.append(await run.checkpoint())
    again = await open_run(redact=redact)
    again.part = 2
    (workspace / "env").write_bytes(b"X\nKEY=" + CANARY + b"\n")
    results.append(await again.checkpoint())
    peeked = await again.repository.peek()
    assert peeked == results[-1].commit
    (workspace / "env").unlink()
    (workspace / "bin").write_bytes(b"\0" + CANARY)
    results.append(await again.checkpoint())
    for result in results:
        assert result.warning is None
        assert CANARY.decode() not in repr(result)
    await run.repository.bundle(tmp_path / "repo.bundle")
    git(tmp_path, "clone", "-q", "--mirror", "repo.bundle", "all.git")
    names = git(tmp_path / "all.git", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)").split()
    batch = ["git", "cat-file", "--batch"]
    asked = "\n".join(names).encode()
    everything = subprocess.run(batch, cwd=tmp_path / "all.git", input=asked, capture_output=True, check=True).stdout
    assert CANARY not in everything
    assert b"KEY=[REDACTED]" in everything
    tree = await again.checked_out(results[1].commit)
    assert tree[b"env"][1] == b"KEY=[REDACTED]\n"
    assert tree[b"clean"][1] == b"changed"
    assert len(tree) == 4
    assert set(await again.checked_out(results[-1].commit)) == {*tree, b"bin"} - {b"env"}


async def test_increments_rebuild_the_mirror(open_run, workspace, tmp_path, sandbox):
    run = await open_run()
    since = None
    paths = []
    for number in range(3):
        (workspace / "a").write_text(str(number))
        result = await run.checkpoint()
        paths.append(tmp_path / f"{number}.bundle")
        since = await run.repository.increment(since, paths[-1])
    assert since == result.commit
    assert await run.repository.increment(since, tmp_path / "none") == since
    assert not (tmp_path / "none").exists()
    other = Mirror.open(tmp_path / "other.git")
    other.import_bundles(paths)
    other.import_bundles(paths)
    assert other.head is not None
    assert other.head.commit == since
    # The sandbox still lives: its history goes on.
    moved = await open_run(mirror=tmp_path / "other.git")
    (workspace / "a").write_text("after the move")
    after = await moved.checkpoint(part=4)
    assert after.warning is None
    assert after.checkpoint.commit_before == since
    with pytest.raises(StorageError, match="can't be taken"):
        Mirror.open(tmp_path / "third.git").import_bundles([paths[2]])
    (tmp_path / "bad").write_bytes(b"# v2 git bundle\nnonsense")
    with pytest.raises(StorageError, match="can't be taken"):
        other.import_bundles([tmp_path / "bad"])


async def test_a_new_sandbox_goes_on_where_the_old_one_was(open_run, workspace, make_sandbox, snapshot):
    run = await open_run()
    (workspace / "run").write_text("#!/bin/sh\n")
    (workspace / "run").chmod(0o755)
    (workspace / "link").symlink_to("nowhere")
    (workspace / "d").mkdir()
    (workspace / "d" / "\n").write_bytes(b"\r\n\0")
    (workspace / ".gitattributes").write_text("* text eol=crlf\n")
    first = await run.checkpoint()
    fresh = make_sandbox("fresh")
    (Path(fresh.workspace) / "left over").write_text("of the image")
    await run.repository.restore_into(fresh, first.commit)
    assert snapshot(fresh.workspace) == snapshot(workspace)
    run.sandbox = fresh
    assert (await run.checkpoint()).checkpoint is None
    (Path(fresh.workspace) / "new").write_text("x")
    run.hook("new")
    second = await run.checkpoint("new")
    assert (second.warning, second.is_late, second.checkpoint.commit_before) == (None, False, first.commit)
    assert [file.path for file in second.checkpoint.changed_files] == ["new"]


async def test_a_sandbox_without_git_says_so(sandbox, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="git can't be run") as caught:
        await SandboxCheckpoints(sandbox=sandbox).install(excludes=(), max_file_bytes=1)
    assert "install git" in caught.value.mend


class KilledError(Exception):
    """What stands for the orchestrator's end in the middle of a move of refs."""


@attrs.frozen(kw_only=True)
class DyingGit(Git):
    """Moves so many refs, one by one in the order they were told, and dies: git's files know no transaction."""

    moves_left: list[int]

    def __call__(self, *arguments: str, stdin: bytes = b"", **options: Any) -> bytes:
        if arguments[0] != "update-ref":
            return super().__call__(*arguments, stdin=stdin, **options)
        told = [line for line in stdin.decode().splitlines() if line.startswith(("update ", "delete "))]
        for move in told or ["update " + " ".join(arguments[1:])]:
            if self.moves_left[0] == 0:
                raise KilledError
            self.moves_left[0] -= 1
            super().__call__("update-ref", "--stdin", stdin=f"{move}\n".encode())
        return b""


@pytest.mark.parametrize("is_tested", [False, True])
@pytest.mark.parametrize("moves", range(6))
async def test_killed_between_the_refs_of_one_move_the_part_keeps_its_checkpoint(open_run, workspace, moves, is_tested):
    run = await open_run()
    (workspace / "a").write_text("1")
    await run.checkpoint()
    (workspace / "a").write_text("2")
    run.hook("two")
    tested = await run.repository.peek() if is_tested else None
    mirror = run.repository._mirror
    mirror.git = DyingGit(directory=mirror.git.directory, moves_left=[moves])
    with suppress(KilledError):
        await run.checkpoint("two")
        assert moves >= 2 + is_tested
    again = await open_run()
    result = await again.checkpoint("two", part=2)
    assert result.checkpoint is not None
    assert tested in (None, result.commit)
    (workspace / "a").write_text("3")
    again.hook("three")
    after = await again.checkpoint("three", part=3)
    assert after.checkpoint.commit_before == result.commit
    assert after.warning is None


WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from conftest import FolderSandbox
from envoi_trace_core.repo.repository import Repository

async def main():
    sandbox = FolderSandbox(Path(sys.argv[1]))
    repository = await Repository.open(mirror_dir=Path(sys.argv[2]), sandbox=sandbox)
    await repository.begin(datetime.fromtimestamp(1_700_000_000, UTC))
    print("begun", flush=True)
    done = Path(sys.argv[2] + ".parts")
    part = len(done.read_text().split()) if done.exists() else 0
    while True:
        part += 1
        (Path(sandbox.workspace) / "a").write_text(str(part))
        if part % 3 == 0:
            await repository.peek()
        sandbox.run_now([*repository.hook_command, f"call{part}"])
        at = datetime.fromtimestamp(1_700_000_000 + part, UTC)
        result = await repository.checkpoint(call_id=f"call{part}", part=part, at=at)
        assert result.checkpoint is not None, result
        assert result.warning is None, result
        with done.open("a") as file:
            file.write(result.commit + "\\n")
asyncio.run(main())
"""


@pytest.mark.slow
async def test_killed_at_any_moment_the_mirror_opens_and_goes_on(open_run, sandbox, mirror_dir, tmp_path):
    random_moments = random.Random(7)
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    here = str(Path(__file__).parent)
    parts = Path(str(mirror_dir) + ".parts")
    for number in range(24):
        process = subprocess.Popen(
            [sys.executable, str(script), str(sandbox.root), str(mirror_dir), here],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if number % 4:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n", process.communicate()
            delay_s = random_moments.uniform(0, 0.5)
        else:  # While it opens the mirror.
            delay_s = random_moments.uniform(0.2, 0.8)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=delay_s)
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (mirror_dir / "HEAD").exists():
            git(mirror_dir, "fsck", "--no-dangling")
    run = await open_run()
    recorded = parts.read_text().split()
    assert len(recorded) > 10
    assert len(set(recorded)) == len(recorded)
    chain = git(mirror_dir, "rev-list", "--reverse", run.repository.head).split()[1:]
    assert chain[: len(recorded)] == recorded
    assert len(chain) - len(recorded) <= 1
    for part, commit in enumerate(recorded, 1):
        assert git(mirror_dir, "show", f"{commit}:a") == str(part)


async def test_a_commit_that_no_part_names_is_made_again_in_a_new_sandbox(open_run, workspace, make_sandbox):
    run = await open_run()
    (workspace / "a").write_text("1")
    first = await run.checkpoint()
    (workspace / "a").write_text("2")
    assert (await run.checkpoint()).checkpoint is not None  # and its part never reached the journal
    run.sandbox = make_sandbox("fresh")
    await run.repository.restore_into(run.sandbox, first.commit)
    assert run.repository.head == first.commit
    (Path(run.sandbox.workspace) / "a").write_text("2")
    again = await run.checkpoint()
    assert again.checkpoint is not None
    assert again.checkpoint.commit_before == first.commit
