"""A workspace as it was at a part, out of `repo.bundle` or the increments of a run that has not ended."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from envoi_trace_core.errors import TraceFormatError, UsageError
from envoi_trace_core.repo.archives import write_files
from envoi_trace_core.repo.bundles import holds, is_commit_id, open_bundles
from envoi_trace_core.repo.git import Git, GitError

MAX_FILES = 2_000_000
MAX_TOTAL_BYTES = 64 * 1024**3


def checkout_part(
    bundle: Path,
    commit: str,
    destination: Path,
    *,
    max_files: int = MAX_FILES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> None:
    """Write the workspace as it was at a commit: bytes, executable bits and symlinks.

    The result is a plain folder without a `.git`: git's history of the run is in the bundle, and a `.git` would
    not have been in the workspace. The folder appears whole or not at all.

    Args:
        bundle: `repo.bundle`; not trusted.
        commit: A part's `git_commit`.
        destination: A folder that is empty or does not exist.
        max_files: How many files a checkout may have.
        max_total_bytes: How large they may be together.

    Raises:
        UsageError: The folder is not empty, or the bundle has no such commit.
        TraceFormatError: The bundle is damaged, or the checkout is above a bound.
    """
    _check_destination(destination)
    if not is_commit_id(commit):
        raise UsageError(f"{commit!r} is no commit id")
    if not bundle.is_file():
        raise UsageError(f"there is no bundle {bundle}")
    with tempfile.TemporaryDirectory(prefix="envoi-trace-replay-") as scratch:
        git = open_bundles([bundle], Path(scratch) / "repo.git")
        if not holds(git, commit):
            raise UsageError(f"the bundle {bundle} holds no commit {commit}")
        checkout_commit(git, commit, destination, max_files=max_files, max_total_bytes=max_total_bytes)


def checkout_commit(
    git: Git,
    commit: str,
    destination: Path,
    *,
    max_files: int = MAX_FILES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> None:
    """The same, out of a repository that holds the commit; nothing is written into the repository.

    Raises:
        UsageError: The folder is not empty.
        TraceFormatError: The checkout is above a bound.
    """
    _check_destination(destination)
    _check_size(git, commit, max_files, max_total_bytes)
    _write(git, commit, destination)


def _check_destination(destination: Path) -> None:
    if destination.is_dir():
        if any(destination.iterdir()):
            raise UsageError(f"the folder {destination} is not empty", mend="name a new folder")
    elif destination.exists() or destination.is_symlink():
        raise UsageError(f"{destination} is no folder", mend="name a new folder")


def _check_size(git: Git, commit: str, max_files: int, max_total_bytes: int) -> None:
    count = total = 0
    for line in git("ls-tree", "-r", "-l", "-z", commit).split(b"\0"):
        if line:
            size = line.split(b"\t", 1)[0].split()[3]
            count += 1
            total += int(size) if size != b"-" else 0
    if count > max_files or total > max_total_bytes:
        raise TraceFormatError(
            f"commit {commit} has {count} files of {total} bytes; the bounds are {max_files} and {max_total_bytes}"
        )


def _write(git: Git, commit: str, destination: Path) -> None:
    """Write beside the destination first, then move into place."""
    missing = not destination.exists()
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as beside:
            work = Path(beside) / "work"
            work.mkdir(mode=0o755)
            write_files(git, commit, work)
            if missing:
                work.rename(destination)
            else:
                _move_all(work, destination)
    except (GitError, OSError) as error:
        raise UsageError(f"the workspace can't be written to {destination}: {error}") from error


def _move_all(source: Path, destination: Path) -> None:
    """Move a folder's content into an empty one that stays the same folder: it may be where the user stands."""
    moved: list[Path] = []
    try:
        for path in sorted(source.iterdir()):
            target = destination / path.name
            path.rename(target)
            moved.append(target)
    except BaseException:
        for path in moved:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise
