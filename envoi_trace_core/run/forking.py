"""A trajectory that starts from the workspace of a part of another one."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from envoi_trace_core.errors import UsageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.repo.repository import Repository
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.stored_repository import repository_with
from envoi_trace_core.trace.lookup import read_trajectory


async def commit_of_part(storage: Storage, trajectory_id: str, part: int) -> str:
    """The workspace right after a part.

    Raises:
        UsageError: There is no such trajectory or part, or its workspace was not recorded.
        TraceFormatError: The trace is damaged.
    """
    rows = (await read_trajectory(storage, trajectory_id)).rows
    if not 1 <= part <= len(rows):
        has = f"has parts 1 to {len(rows)}" if rows else "has no part"
        raise UsageError(
            f"part {part} is out of range: trajectory {trajectory_id} {has}",
            mend=f"--at-part {len(rows)} is the last" if rows else None,
        )
    commit = rows[part - 1].part.git_commit
    if commit is None:
        raise UsageError(f"part {part} has no commit: the workspace was not recorded then", mend="choose a later part")
    return commit


async def fill_from_origin(repository: Repository, storage: Storage, config: RunConfig) -> None:
    """Put what the configuration says that the trajectory starts from into its workspace.

    Raises:
        UsageError: The origin is not there, or not whole.
        SandboxError: The workspace could not be written.
    """
    assert config.forked_from is not None
    assert config.forked_at_part is not None
    commit = await commit_of_part(storage, config.forked_from, config.forked_at_part)
    with TemporaryDirectory(prefix="envoi-trace-fork-") as scratch:
        origin = await repository_with(storage, config.forked_from, commit, Path(scratch))
        await repository.fork_into_workspace(origin, commit)
