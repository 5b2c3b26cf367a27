"""The repository of a stored trajectory, wherever its newest commits are: also of one that goes on, or died.

`repo.bundle` stands in the storage when an attempt ended. Before that the commits are in the mirror on the machine
that runs it, and as increments below `resume/` in the storage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

from anyio import to_thread

from envoi_trace_core.errors import KeyMissingError, UsageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.repo.bundles import holds, open_bundles
from envoi_trace_core.repo.git import Git
from envoi_trace_core.run.restoring import MIRROR, StoredRun
from envoi_trace_core.state import trajectory_dir
from envoi_trace_core.trace.keys import bundle_key

CHUNK_BYTES = 32 * 1024 * 1024


async def repository_with(storage: Storage, trajectory_id: str, commit: str, scratch: Path) -> Git:
    """A repository that holds a commit of a trajectory. It is only to be read.

    Args:
        storage: Where the trajectory is.
        trajectory_id: Whose.
        commit: A part's `git_commit`.
        scratch: A folder for what is fetched; it must outlive the repository.

    Raises:
        UsageError: No repository that can be reached holds the commit.
        TraceFormatError: What is stored is damaged.
        StorageError: The storage can't be reached.
    """
    mirror = mirror_with(trajectory_id, commit)
    if mirror is not None:
        return mirror
    found = False
    async for bundles in _stored(storage, trajectory_id, scratch):
        found = True
        git = await to_thread.run_sync(open_bundles, bundles, scratch / f"{bundles[0].stem}.git")
        if holds(git, commit):
            return git
    raise missing_commit(trajectory_id, commit, is_known=found)


def mirror_with(trajectory_id: str, commit: str) -> Git | None:
    """The repository on this machine, if it ran the trajectory and holds the commit."""
    mirror = trajectory_dir(trajectory_id) / MIRROR
    if (mirror / "HEAD").is_file() and holds(Git(directory=mirror), commit):
        return Git(directory=mirror)
    return None


def missing_commit(trajectory_id: str, commit: str, *, is_known: bool) -> UsageError:
    """What to say when no repository holds a commit; `is_known` when there is one at all."""
    if is_known:
        return UsageError(
            f"the repository of {trajectory_id} that is stored does not hold commit {commit[:12]} yet",
            mend="try again in a moment, or on the machine that runs it",
        )
    return UsageError(
        f"trajectory {trajectory_id} has no repo.bundle: it has not ended, and no commit of it is stored yet",
        mend=f"envoi-trace resume {trajectory_id}, or wait for its end",
    )


async def _stored(storage: Storage, trajectory_id: str, scratch: Path) -> AsyncIterator[Sequence[Path]]:
    """Each set of bundles that makes a repository: the one of the end, then what a resume would take."""
    bundle = scratch / "repo.bundle"
    if await _save(storage, bundle_key(trajectory_id), bundle):
        yield [bundle]
    run = await StoredRun.find(storage, trajectory_id)
    paths = []
    for number in range(1, run.bundles + 1):
        path = scratch / f"{number:06d}.bundle"
        if not await _save(storage, run.bundle_key(number), path):
            break  # the run ended while we read: what a resume needs is taken away then
        paths.append(path)
    if paths:
        yield paths


async def _save(storage: Storage, key: str, destination: Path) -> bool:
    """Write an object to a file, in pieces; False when there is none."""
    info = await storage.stat(key)
    if info is None:
        return False
    try:
        with destination.open("wb") as file:
            for start in range(0, info.size_bytes, CHUNK_BYTES):
                data = await storage.get(key, start=start, length=CHUNK_BYTES)
                await to_thread.run_sync(partial(file.write, data))
    except KeyMissingError:
        return False
    return True
