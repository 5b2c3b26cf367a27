"""A checkpoint is the workspace right after a call, byte for byte."""

# Tests block as they like, and odd names need plain bytes.
# ruff: noqa: ASYNC221, ASYNC230, ASYNC240, PTH118, PTH123

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_fifty_writes_without_a_pause_give_fifty_exact_commits(open_run, workspace):
    run = await open_run()
    for number in range(50):
        (workspace / "counter").write_text(f"{number:03}\n")
        run.hook(f"call_{number}")
    results = [await run.checkpoint(f"call_{number}") for number in range(50)]
    assert len({result.commit for result in results}) == 50
    assert [result.warning for result in results] == [None] * 50
    assert not any(result.is_late for result in results)
    for number in (0, 1, 25, 49):
        assert await run.checked_out(results[number].commit) == {b"counter": ("file", b"%03d\n" % number, False)}


async def test_a_part_that_changes_nothing_has_no_checkpoint(open_run, workspace):
    run = await open_run()
    (workspace / "a").write_text("1")
    first = await run.checkpoint()
    second = await run.checkpoint()
    assert first.checkpoint is not None
    assert (second.commit, second.checkpoint, second.patch) == (first.commit, None, None)


async def test_what_the_agent_does_after_the_hook_is_not_in_the_commit(open_run, workspace):
    run = await open_run()
    (workspace / "a").write_text("in the call")
    run.hook("one")
    (workspace / "a").write_text("later")
    result = await run.checkpoint("one")
    assert (await run.checked_out(result.commit))[b"a"][1] == b"in the call"


async def test_same_size_and_time_set_back_is_seen(open_run, workspace):
    run = await open_run()
    path = workspace / "a"
    path.write_text("aaaa")
    os.utime(path, (1_500_000_000, 1_500_000_000))
    await run.checkpoint()
    for content in ("bbbb", "cccc", "dddd"):
        path.write_text(content)
        os.utime(path, (1_500_000_000, 1_500_000_000))
        result = await run.checkpoint()
        assert (await run.checked_out(result.commit))[b"a"][1] == content.encode()


async def test_every_kind_of_file_survives(open_run, workspace, snapshot):
    run = await open_run()
    base = os.fsencode(workspace)
    for name in (b"with space", b"new\nline", b"-dash", b"--all", b"quo\"te'", b"\xff\xfe", b"tab\t", b"back\\slash",
                 b":(exclude)x", b"*", b"[a]", b"git~1", b" lead", b"trail ", b"$(x)", b"\x01\x7f"):  # fmt: skip
        with open(os.path.join(base, name), "wb") as file:
            file.write(name * 3)
    (workspace / "binary").write_bytes(bytes(range(256)) * 10)
    (workspace / "empty").touch()
    (workspace / "crlf.txt").write_bytes(b"a\r\nb\nc\r")
    (workspace / "tool").write_text("#!/bin/sh\n")
    (workspace / "tool").chmod(0o755)
    (workspace / "deep" / "er").mkdir(parents=True)
    (workspace / "deep" / "er" / "x").write_text("x")
    (workspace / "to-file").symlink_to("tool")
    (workspace / "to-folder").symlink_to("deep")
    (workspace / "dangling").symlink_to("nowhere")
    (workspace / "outside").symlink_to("/etc/passwd")
    (workspace / "unreadable").write_text("secret")
    (workspace / "unreadable").chmod(0o000)
    os.mkfifo(workspace / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(workspace / "s"))
    listener.close()
    result = await run.checkpoint()
    assert result.warning is None or os.getuid() != 0
    assert await run.checked_out(result.commit) == snapshot(workspace)


async def test_renames_deletions_modes_and_types_survive(open_run, workspace, snapshot):
    run = await open_run()
    (workspace / "old").write_text("line\n" * 50)
    (workspace / "gone").write_text("x\n")
    (workspace / "mode").write_text("y\n")
    (workspace / "type").write_text("z\n")
    (workspace / "bin").write_bytes(b"\0\1\2")
    await run.checkpoint()
    (workspace / "old").rename(workspace / "new name")
    (workspace / "gone").unlink()
    (workspace / "mode").chmod(0o755)
    (workspace / "type").unlink()
    (workspace / "type").symlink_to("mode")
    (workspace / "bin").write_bytes(b"\0\1\3")
    with open(os.path.join(os.fsencode(workspace), b"\xe9.txt"), "w") as file:
        file.write("one\ntwo\n")
    result = await run.checkpoint()
    files = {file.path: (file.status, file.additions, file.deletions) for file in result.checkpoint.changed_files}
    assert files == {
        "new name": ("renamed", 0, 0),
        "gone": ("deleted", 0, 1),
        "mode": ("modified", 0, 0),
        "type": ("type_changed", 1, 1),
        "bin": ("modified", None, None),
        "\\xe9.txt": ("added", 2, 0),
    }
    assert "rename from old" in result.patch
    assert "Binary files a/bin and b/bin differ" in result.patch
    assert await run.checked_out(result.commit) == snapshot(workspace)


async def test_a_file_becomes_a_folder_and_back(open_run, workspace, snapshot):
    run = await open_run()
    seen = []
    for is_folder in (False, True, False, True):
        shutil.rmtree(workspace / "x", ignore_errors=True)
        (workspace / "x").unlink(missing_ok=True)
        if is_folder:
            (workspace / "x").mkdir()
            (workspace / "x" / "y").write_text("inside")
        else:
            (workspace / "x").write_text("file")
        seen.append((await run.checkpoint(), snapshot(workspace)))
    for result, expected in seen:
        assert await run.checked_out(result.commit) == expected


async def test_attributes_of_the_workspace_do_not_change_bytes(open_run, workspace, snapshot):
    run = await open_run()
    (workspace / ".gitattributes").write_text(
        "* text=auto eol=crlf ident filter=lfs export-subst\nu.txt working-tree-encoding=UTF-16\nhidden export-ignore\n"
        "[attr]binary text eol=crlf\n*.b binary\n"
    )
    (workspace / "a.txt").write_bytes(b"a\r\n$Id$\n$Format:%H$\n")
    (workspace / "a.b").write_bytes(b"a\r\nb\n")
    (workspace / "u.txt").write_bytes("grün".encode("utf-16"))
    (workspace / "hidden").write_text("here")
    (workspace / ".gitmodules").write_text('[submodule "../x"]\n\tpath = x\n\turl = -u./payload\n\tupdate = !sh\n')
    result = await run.checkpoint()
    assert result.warning is None
    assert await run.checked_out(result.commit) == snapshot(workspace)
    tar = run.tmp_path / "w.tar.gz"
    await run.repository.export_tar(result.commit, tar)
    (run.tmp_path / "out").mkdir()
    subprocess.run(["tar", "xzf", tar, "-C", run.tmp_path / "out"], check=True)
    assert snapshot(run.tmp_path / "out") == snapshot(workspace)


async def test_excludes_are_the_defaults_and_the_workspaces_own(open_run, workspace):
    run = await open_run()
    for path in (
        "target/a",
        "src/node_modules/b",
        "pkg/__pycache__/c.pyc",
        ".venv/d",
        "kept",
        "log/x",
        "sub/tmp/y",
        "sub/k",
    ):
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text(path)
    (workspace / ".gitignore").write_text("log/\n")
    (workspace / "sub" / ".gitignore").write_text("tmp/\n")
    result = await run.checkpoint()
    assert set(await run.checked_out(result.commit)) == {b"kept", b".gitignore", b"sub/.gitignore", b"sub/k"}


async def test_a_large_file_is_skipped_and_named(open_run, workspace):
    run = await open_run(max_file_bytes=1000)
    (workspace / "small").write_bytes(b"s" * 1000)
    (workspace / "grows").write_bytes(b"g" * 10)
    (workspace / ".gitignore").write_text("ignored\n")
    (workspace / "ignored").write_bytes(b"i" * 5000)
    first = await run.checkpoint()
    assert first.checkpoint.skipped_files == ()
    (workspace / "grows").write_bytes(b"g" * 1001)
    (workspace / "big\nname").write_bytes(b"b" * 1001)
    second = await run.checkpoint()
    assert second.checkpoint.skipped_files == ("big\nname", "grows")
    assert [(file.path, file.status) for file in second.checkpoint.changed_files] == [("grows", "deleted")]
    assert set(await run.checked_out(second.commit)) == {b"small", b".gitignore"}
    (workspace / "another").write_bytes(b"b" * 1001)
    third = await run.checkpoint()
    assert third.checkpoint.skipped_files == ("another", "big\nname", "grows")
    assert third.checkpoint.changed_files == ()
    assert (await run.checkpoint()).checkpoint is None
    for name in ("grows", "another", "big\nname"):
        (workspace / name).write_bytes(b"small again")
    last = await run.checkpoint()
    assert last.checkpoint.skipped_files == ()
    assert set(await run.checked_out(last.commit)) == {b"small", b".gitignore", b"grows", b"another", b"big\nname"}


@pytest.mark.slow
async def test_files_that_come_and_go_do_not_fail_a_checkpoint(open_run, workspace):
    run = await open_run()
    (workspace / "stable").write_text("stable")
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path = workspace / f"churn{number % 50}"
            path.write_text(str(number))
            path.unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for number in range(15):
            (workspace / "stable").write_text(f"stable {number}")
            run.hook(f"call{number}")
            result = await run.checkpoint(f"call{number}")
            assert result.checkpoint is not None
            assert not result.is_late
            tree = await run.checked_out(result.commit)
            assert tree[b"stable"][1] == f"stable {number}".encode()
    finally:
        stop.set()
        thread.join()


async def test_a_patch_is_cut_with_a_clear_last_line(open_run, workspace):
    run = await open_run()
    (workspace / "big.txt").write_text("a line of text\n" * 200_000)
    result = await run.checkpoint()
    assert len(result.patch) <= 1024 * 1024 + 200
    assert result.patch.splitlines()[-1].startswith("[the patch is cut here")
    assert result.checkpoint.changed_files[0].additions == 200_000


async def test_what_cannot_be_read_is_named_and_fails_nothing(open_run, sandbox):
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)  # noqa: PTH101
        box = type(sandbox)(Path(root) / "box")
        if os.getuid() == 0:  # Root reads anyway.
            box.user = 65534
            for path in (box.root, *box.root.iterdir()):
                os.chown(path, 65534, 65534)
        run = await open_run(box)
        workspace = Path(box.workspace)
        (workspace / "unreadable").write_text("1")
        (workspace / "a").write_text("1")
        (workspace / "folder").mkdir()
        (workspace / "folder" / "x").write_text("x")
        first = await run.checkpoint()
        assert first.warning is None
        for name in ("unreadable", "new"):
            (workspace / name).write_text("2")
            (workspace / name).chmod(0o000)
        (workspace / "folder").chmod(0o000)
        (workspace / "a").write_text("2")
        second = await run.checkpoint()
        (workspace / "folder").chmod(0o755)
        assert "unreadable" in second.warning
        assert "new" in second.warning
        # What can't be read stays as it was recorded last.
        assert await run.checked_out(second.commit) == {
            b"a": ("file", b"2", False),
            b"unreadable": ("file", b"1", False),
            b"folder/x": ("file", b"x", False),
        }
