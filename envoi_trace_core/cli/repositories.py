"""Where the repository of a trajectory is to be found: also of one that goes on, or died.

`repo.bundle` stands in the storage when a run ended. Before that, and after a resume that has not ended, the newest
commits are in the mirror on the machine that runs it, and as increments below `resume/` in the storage.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envoi_trace_core.cli.reading import StorageWords, trace_file
from envoi_trace_core.errors import KeyMissingError, UsageError

if TYPE_CHECKING:
    from envoi_trace_core.protocols import Storage

BUNDLE_FILE = "repo.bundle"
INCREMENTS = Path("resume") / "repository"
CHUNK_BYTES = 32 * 1024 * 1024


async def check_out(word: str, trajectory_id: str, commit: str, destination: Path, words: StorageWords) -> None:
    """Write the workspace as it was at a commit of a trajectory.

    Args:
        word: What the user called the trajectory: an id, a prefix or a path.
        trajectory_id: What it is.
        commit: A part's `git_commit`.
        destination: A folder that is empty or does not exist.
        words: The storage.

    Raises:
        UsageError: No repository that can be reached holds the commit, or the folder is not empty.
        TraceFormatError: The repository is damaged, or too large.
    """
    from envoi_trace_core.analysis.replay import checkout_commit, holds, open_bundles
    from envoi_trace_core.repo.git import Git
    from envoi_trace_core.run.restoring import MIRROR
    from envoi_trace_core.state import trajectory_dir

    mirror = trajectory_dir(trajectory_id) / MIRROR
    if (mirror / "HEAD").is_file() and holds(Git(directory=mirror), commit):
        checkout_commit(Git(directory=mirror), commit, destination)
        return
    with tempfile.TemporaryDirectory(prefix="envoi-trace-graph-") as scratch:
        number = 0
        async for bundles in _stored(word, trajectory_id, words, Path(scratch)):
            number += 1
            git = open_bundles(bundles, Path(scratch) / f"repo-{number}.git")
            if holds(git, commit):
                checkout_commit(git, commit, destination)
                return
    if number:
        raise UsageError(
            f"the repository of {trajectory_id} that is stored does not hold commit {commit[:12]} yet",
            mend="try again in a moment, or on the machine that runs it",
        )
    raise UsageError(
        f"trajectory {trajectory_id} has no {BUNDLE_FILE}: it has not ended, and no commit of it is stored yet",
        mend=f"envoi-trace resume {trajectory_id}, or wait for its end",
    )


async def _stored(word: str, trajectory_id: str, words: StorageWords, scratch: Path) -> AsyncIterator[Sequence[Path]]:
    """Each set of bundles that makes a repository: the one of the end, then what a resume would take."""
    path = trace_file(word)
    if path is not None:
        if path.with_name(BUNDLE_FILE).is_file():
            yield [path.with_name(BUNDLE_FILE)]
        if increments := sorted((path.parent / INCREMENTS).glob("[0-9]*.bundle")):
            yield increments
        return
    async with words.open() as storage:
        bundle = await _saved_bundle(storage, trajectory_id, scratch)
        if bundle is not None:
            yield [bundle]
        if saved := await _saved_increments(storage, trajectory_id, scratch):
            yield saved


async def _saved_bundle(storage: Storage, trajectory_id: str, scratch: Path) -> Path | None:
    from envoi_trace_core.trace.keys import bundle_key

    key = bundle_key(trajectory_id)
    info = await storage.stat(key)
    if info is None:
        return None
    return await _saved(storage, key, info.size_bytes, scratch / BUNDLE_FILE)


async def _saved_increments(storage: Storage, trajectory_id: str, scratch: Path) -> Sequence[Path]:
    from envoi_trace_core.run.stored_log import numbered_sizes
    from envoi_trace_core.trace.keys import resume_prefix

    prefix = f"{resume_prefix(trajectory_id)}repository/"
    sizes_bytes = await numbered_sizes(storage, prefix, "bundle")
    paths = []
    for number, size_bytes in enumerate(sizes_bytes, 1):
        path = await _saved(storage, f"{prefix}{number:06d}.bundle", size_bytes, scratch / f"{number:06d}.bundle")
        if path is None:  # the run ended while we read: what a resume needs is taken away then
            break
        paths.append(path)
    return paths


async def _saved(storage: Storage, key: str, size_bytes: int, destination: Path) -> Path | None:
    """An object as a file; None when it is gone."""
    try:
        with destination.open("wb") as file:
            for start in range(0, size_bytes, CHUNK_BYTES):
                file.write(await storage.get(key, start=start, length=CHUNK_BYTES))
    except KeyMissingError:
        return None
    return destination
