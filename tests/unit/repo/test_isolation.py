"""What the agent does with git of its own changes nothing in the record, and tampering with ours is told."""

# Tests block as they like, and odd names need plain bytes.
# ruff: noqa: ASYNC220, ASYNC221, PTH208

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio


def git(folder: Path, *arguments: str) -> None:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **identity},
    )


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(folder.rglob("*"))}


async def test_the_agents_own_repository_is_neither_read_nor_written(open_run, workspace, snapshot):
    run = await open_run()
    git(workspace, "init", "-q")
    (workspace / "a").write_text("1")
    git(workspace, "add", ".")
    git(workspace, "commit", "-qm", "one")
    (workspace / ".git" / "info" / "exclude").write_text("b\n")
    (workspace / "b").write_text("excluded by the agent's own repository only")
    git(workspace, "config", "core.worktree", "/nonexistent")
    (workspace / ".git" / "index.lock").touch()
    before = listing(workspace / ".git")
    run.hook("one")
    result = await run.checkpoint("one")
    assert listing(workspace / ".git") == before
    assert await run.checked_out(result.commit) == snapshot(workspace)
    shutil.rmtree(workspace / ".git")
    assert (await run.checkpoint()).checkpoint is None
    (workspace / ".git").write_text("gitdir: /nonexistent\n")
    (workspace / "a").write_text("2")
    result = await run.checkpoint()
    assert await run.checked_out(result.commit) == snapshot(workspace)


async def test_nested_repositories_are_recorded_as_plain_files(open_run, workspace, snapshot):
    run = await open_run()
    with_commit, without, submodule, elsewhere, bare = (
        workspace / name for name in ("with c", "wo\nut", "sup/er", "else", "e")
    )
    for folder in (with_commit, without, submodule, elsewhere, bare, with_commit / "deep" / "nested"):
        folder.mkdir(parents=True)
        (folder / "file").write_text(str(folder))
        git(folder, "init", "-q")
    git(with_commit, "add", "file")
    git(with_commit, "commit", "-qm", "x")
    (bare / "file").unlink()  # Only a .git: nothing to record.
    shutil.rmtree(elsewhere / ".git")
    (elsewhere / ".git").write_text(f"gitdir: {with_commit}/.git\n")
    (workspace / "broken").mkdir()
    (workspace / "broken" / ".git").write_text("garbage")
    (workspace / "broken" / "file").write_text("x")
    git(submodule, "add", "file")
    git(submodule, "commit", "-qm", "x")
    (workspace / ".gitignore").write_text("vendor/\n")
    (workspace / "vendor" / "lib").mkdir(parents=True)
    (workspace / "vendor" / "lib" / "file").write_text("ignored")
    git(workspace / "vendor" / "lib", "init", "-q")
    result = await run.checkpoint()
    expected = snapshot(workspace)
    del expected[b"vendor/lib/file"]
    assert result.warning is None
    assert await run.checked_out(result.commit) == expected

    (with_commit / "deep" / "nested" / "file").write_text("changed")
    (submodule / "file").unlink()
    shutil.rmtree(without)
    without.write_text("a file now")
    (workspace / ".gitignore").unlink()
    result = await run.checkpoint()
    assert await run.checked_out(result.commit) == snapshot(workspace)


async def test_a_file_becomes_a_nested_repository(open_run, workspace, snapshot):
    run = await open_run()
    (workspace / "x").write_text("file")
    await run.checkpoint()
    (workspace / "x").unlink()
    (workspace / "x").mkdir()
    (workspace / "x" / "y").write_text("y")
    git(workspace / "x", "init", "-q")
    git(workspace / "x", "add", ".")
    git(workspace / "x", "commit", "-qm", "x")
    result = await run.checkpoint()
    assert await run.checked_out(result.commit) == snapshot(workspace)


async def test_git_folders_in_any_spelling_are_left_out_and_fail_nothing(open_run, workspace):
    run = await open_run()
    (workspace / ".GIT").mkdir()
    (workspace / ".GIT" / "x").write_text("x")
    (workspace / "a").write_text("a")
    assert set(await run.checked_out((await run.checkpoint()).commit)) == {b"a"}
    (workspace / ".gitignore").write_text("!.GIT\n")
    (workspace / "a").write_text("b")
    assert (await run.checked_out((await run.checkpoint()).commit))[b"a"][1] == b"b"


async def test_the_agents_environment_does_not_steer_the_hook(open_run, workspace, tmp_path):
    run = await open_run()
    (workspace / "a").write_text("a")
    evil = tmp_path / "evil"
    (evil / "git").mkdir(parents=True)
    (evil / "git" / "ignore").write_text("*\n")
    (evil / ".gitconfig").write_text("[core]\n\texcludesFile = ignore-all\n")
    run.hook(
        "one",
        GIT_DIR="/nonexistent", GIT_WORK_TREE=str(evil), GIT_INDEX_FILE="/nonexistent/i",
        GIT_OBJECT_DIRECTORY="/nonexistent", GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0="core.bare", GIT_CONFIG_VALUE_0="true", GIT_LITERAL_PATHSPECS="1",
        GIT_TRACE="1", XDG_CONFIG_HOME=str(evil), HOME=str(evil), PATH="/nonexistent", CDPATH="/tmp", LC_ALL="xx",
    )  # fmt: skip
    result = await run.checkpoint("one")
    assert not result.is_late
    assert set(await run.checked_out(result.commit)) == {b"a"}


async def test_call_ids_are_any_text(open_run, workspace):
    run = await open_run()
    ids = ["", " ", "-n", "a b", "$(touch pwned)", "a\nb", "../../x", "x" * 5000, "ünï", "a.b", "*", "c-a", "\udcff"]
    results = []
    for number, call_id in enumerate(ids):
        (workspace / "a").write_text(str(number))
        run.hook(call_id)
    for number, call_id in enumerate(ids):
        result = await run.checkpoint(call_id)
        assert not result.is_late
        results.append(result)
        assert (await run.checked_out(result.commit))[b"a"][1] == str(number).encode()
    assert set(os.listdir(workspace)) == {"a"}


async def test_parallel_hooks_take_turns_and_parts_may_come_in_any_order(open_run, workspace):
    run = await open_run()
    (workspace / "a").write_text("1")
    processes = [subprocess.Popen([*run.repository.hook_command, f"call{number}"]) for number in range(8)]
    assert [process.wait(60) for process in processes] == [0] * 8
    lines = (Path(run.sandbox.support_dir) / "checkpoint" / "log").read_text().splitlines()[-8:]
    assert [line.split()[0] for line in lines] == ["ok"] * 8
    assert len({line.split()[2] for line in lines}) == 1  # The first one made it, the others found it made.
    (workspace / "a").write_text("2")
    run.hook("late one")
    newer = await run.checkpoint("late one")
    older = await run.checkpoint("call3")
    (workspace / "a").write_text("3")
    newest = await run.checkpoint()
    assert (newer.warning, older.warning, newest.warning) == (None, None, None)
    contents = [(await run.checked_out(result.commit))[b"a"][1] for result in (newer, older, newest)]
    assert contents == [b"2", b"1", b"3"]


async def test_without_flock_hooks_take_turns_too_and_a_dead_ones_lock_is_broken(open_run, workspace, tmp_path):
    run = await open_run()
    folder = Path(run.sandbox.support_dir) / "checkpoint"
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in "sh git find sed tail grep tr xargs cat mkdir rm mv cp sleep touch wc".split():  # noqa: SIM905
        (tools / name).symlink_to(str(shutil.which(name)))
    with (folder / "settings").open("a") as settings:
        settings.write(f"COMMAND_PATH={tools}\n")
    ended = subprocess.Popen(["true"])
    ended.wait()
    (folder / "lock.d").mkdir()
    (folder / "lock.d" / "pid").write_text(f"{ended.pid}\n")
    (workspace / "a").write_text("1")
    processes = [subprocess.Popen([*run.repository.hook_command, f"call{number}"]) for number in range(6)]
    assert [process.wait(60) for process in processes] == [0] * 6
    lines = (folder / "log").read_text().splitlines()[-6:]
    assert {line.split()[0] for line in lines} == {"ok"}
    assert len({line.split()[2] for line in lines}) == 1
    result = await run.checkpoint("call5")
    assert (result.warning, result.is_late) == (None, False)
    assert not list(folder.glob("lock.*"))


async def test_a_killed_hook_blocks_nobody(open_run, workspace):
    run = await open_run()
    for number in range(6):
        (workspace / "a").write_text(str(number))
        process = subprocess.Popen([*run.repository.hook_command, f"killed{number}"], start_new_session=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.001 + 0.002 * number)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        result = await run.checkpoint(f"killed{number}")
        assert (await run.checked_out(result.commit))[b"a"][1] == str(number).encode()


async def test_a_hook_that_failed_is_reported_and_made_up_for(open_run, workspace, sandbox):
    run = await open_run()
    (workspace / "a").write_text("1")
    moved = workspace.with_name("moved")
    workspace.rename(moved)
    result = subprocess.run([*run.repository.hook_command, "one"], cwd="/", capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (0, b"")
    moved.rename(workspace)
    checkpoint = await run.checkpoint("one")
    assert "the hook failed" in checkpoint.warning
    assert checkpoint.checkpoint is not None


def sabotage_delete(folder: Path) -> None:
    shutil.rmtree(folder / "repo.git")


def sabotage_index(folder: Path) -> None:
    (folder / "repo.git" / "index").write_bytes(b"garbage")
    (folder / "repo.git" / "index.lock").touch()


def sabotage_objects(folder: Path) -> None:
    for path in (folder / "repo.git" / "objects").iterdir():
        shutil.rmtree(path)


def sabotage_everything(folder: Path) -> None:
    sabotage_delete(folder)
    (folder / "log").unlink()


@pytest.mark.parametrize("sabotage", [sabotage_delete, sabotage_index, sabotage_objects, sabotage_everything])
async def test_damage_to_the_sandboxs_copy_loses_nothing(open_run, workspace, sandbox, snapshot, sabotage):
    run = await open_run()
    (workspace / "a").write_text("1")
    first = await run.checkpoint()
    sabotage(Path(sandbox.support_dir) / "checkpoint")
    (workspace / "b").write_text("2")
    run.hook("two")
    second = await run.checkpoint("two")
    assert await run.checked_out(first.commit) == {b"a": ("file", b"1", False)}
    assert await run.checked_out(second.commit) == snapshot(workspace)
    if sabotage is not sabotage_index:
        assert "not from" in second.warning
    (workspace / "b").write_text("3")
    third = await run.checkpoint()
    assert third.warning is None
    assert await run.checked_out(third.commit) == snapshot(workspace)


async def test_a_rewritten_history_is_recorded_and_reported(open_run, workspace, sandbox):
    run = await open_run()
    (workspace / "a").write_text("1")
    first = await run.checkpoint()
    (workspace / "a").write_text("2")
    second = await run.checkpoint()
    log = Path(sandbox.support_dir) / "checkpoint" / "log"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    (workspace / "a").write_text("3")
    third = await run.checkpoint()
    assert "the last one recorded" in third.warning
    assert third.checkpoint.commit_before == second.commit
    contents = [(await run.checked_out(result.commit))[b"a"][1] for result in (first, second, third)]
    assert contents == [b"1", b"2", b"3"]


TOO_LARGE = b"status ok\nran hook\ncommit x\ntree y\nnote \nbig 99999\n"


@pytest.mark.parametrize("answer", [b"", b"status ok\n", b"\0" * 100, TOO_LARGE])
async def test_an_answer_that_is_not_the_scripts_is_no_checkpoint(open_run, workspace, sandbox, answer):
    run = await open_run()
    (Path(sandbox.support_dir) / "answer").write_bytes(answer)
    (Path(sandbox.support_dir) / "checkpoint" / "checkpoint.sh").write_text(f"cat {sandbox.support_dir}/answer\n")
    before = run.repository.head
    result = await run.checkpoint()
    assert (result.commit, result.checkpoint) == (before, None)
    assert "has no checkpoint" in result.warning


@pytest.mark.parametrize("pack", [b"garbage", b"PACK" + b"\0" * 100, b""])
async def test_damaged_objects_are_refused(open_run, workspace, sandbox, pack):
    run = await open_run()
    answer = Path(sandbox.support_dir) / "answer"
    answer.write_bytes(
        b"status ok\nran hook\ncommit %s\ntree %s\nnote \nbig 0\nignored 0\npack whole\n" % (b"a" * 40, b"b" * 40)
        + pack
    )
    (Path(sandbox.support_dir) / "checkpoint" / "checkpoint.sh").write_text(f"cat {answer}\n")
    result = await run.checkpoint()
    assert result.checkpoint is None
    assert "refused" in result.warning
