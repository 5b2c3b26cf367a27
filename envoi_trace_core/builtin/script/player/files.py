"""Writes and patches, within the workspace only."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PATCH_TIMEOUT_S = 60


class RefusedError(Exception):
    """A change that can't be made, or must not be."""


def write_file(workspace: str, path: str, content: str) -> int:
    """Write a file, making its folders; gives its size in bytes.

    Raises:
        RefusedError: It would lie out of the workspace, or can't be written.
    """
    target = Path(_within(workspace, path))
    data = content.encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from error
    return len(data)


def _within(workspace: str, path: str) -> str:
    """A path with its symlinks followed."""
    root = os.path.realpath(workspace)
    target = os.path.realpath(os.path.join(root, path))  # noqa: PTH118  # an absolute path must not win unseen
    if not target.startswith(root + os.sep):
        raise RefusedError(f"{path} is out of the workspace")
    return target


def apply_patch(workspace: str, diff: str) -> str:
    """Apply a unified diff (paths with `a/` and `b/`), all of it or nothing; gives what the tool said.

    The index and the objects of a repository in the workspace are not touched.

    Raises:
        RefusedError: It names a path out of the workspace, or does not apply.
    """
    for path in patched_paths(diff):
        if ".git" in path.split("/"):
            raise RefusedError(f"{path} belongs to git")
        _within(workspace, path)
    if not diff.endswith("\n"):
        diff += "\n"
    if shutil.which("git"):
        argv = ["git", "apply", "--whitespace=nowarn", "-"]
    elif shutil.which("patch"):
        _run(["patch", "-p1", "--batch", "--forward", "--dry-run"], workspace, diff)
        argv = ["patch", "-p1", "--batch", "--forward"]
    else:
        raise RefusedError("neither git nor patch is installed here")
    return _run(argv, workspace, diff)


def patched_paths(diff: str) -> list[str]:
    """The files that a unified diff names, without `a/` and `b/`, in order."""
    found: dict[str, None] = {}
    for line in diff.splitlines():
        for mark in ("--- ", "+++ ", "rename from ", "rename to ", "copy to "):
            if line.startswith(mark):
                path = line[len(mark) :].split("\t")[0].strip()
                if mark in ("--- ", "+++ "):
                    path = path.split("/", 1)[-1] if path.startswith(("a/", "b/")) else path
                if path != "/dev/null":
                    found[path] = None
    return list(found)


def _run(argv: list[str], workspace: str, diff: str) -> str:
    root = os.path.realpath(workspace)
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    # A repository further up would make git leave out paths that are not below its own idea of the folder.
    env.update(GIT_CEILING_DIRECTORIES=os.path.dirname(root), GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL=os.devnull)  # noqa: PTH120
    try:
        done = subprocess.run(
            argv,
            check=False,
            cwd=root,
            env=env,
            input=diff.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATCH_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise RefusedError(f"{argv[0]} took longer than {PATCH_TIMEOUT_S} s") from error
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0:
        raise RefusedError(said or f"{argv[0]} ended with status {done.returncode}")
    return said
