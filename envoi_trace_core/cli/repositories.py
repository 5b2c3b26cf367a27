"""The repository that belongs to a word on the command line: a trajectory's, or the one beside a trace file."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from envoi_trace_core.cli.reading import StorageWords, trace_file

if TYPE_CHECKING:
    from envoi_trace_core.repo.git import Git

BUNDLE_FILE = "repo.bundle"
INCREMENTS = Path("resume") / "repository"


async def check_out(word: str, trajectory_id: str, commit: str, destination: Path, words: StorageWords) -> None:
    """Write the workspace as it was at a commit of a trajectory.

    Args:
        word: What the user called the trajectory: an id, a prefix or a path.
        trajectory_id: What it is.
        commit: A part's `git_commit`.
        destination: A folder that is empty or does not exist.
        words: The storage.

    Raises:
        UsageError: No repository that can be reached holds the commit, the folder is not empty, or the id is none.
        TraceFormatError: The repository is damaged, or too large.
    """
    from envoi_trace_core.analysis.replay import checkout_commit
    from envoi_trace_core.ids import check_trajectory_id

    check_trajectory_id(trajectory_id)  # out of a trace file it may be anything, and it names a folder
    async with _repository(word, trajectory_id, commit, words) as git:
        checkout_commit(git, commit, destination)


@asynccontextmanager
async def _repository(word: str, trajectory_id: str, commit: str, words: StorageWords) -> AsyncIterator[Git]:
    from envoi_trace_core.run.stored_repository import mirror_with, repository_with

    path = trace_file(word)
    with tempfile.TemporaryDirectory(prefix="envoi-trace-repository-") as scratch:
        if path is None:
            async with words.open() as storage:
                yield await repository_with(storage, trajectory_id, commit, Path(scratch))
        else:
            yield mirror_with(trajectory_id, commit) or _beside(path, trajectory_id, commit, Path(scratch))


def _beside(trace: Path, trajectory_id: str, commit: str, scratch: Path) -> Git:
    """What stands beside a trace file: the bundle of its end, and what a resume would take."""
    from envoi_trace_core.repo.bundles import holds, open_bundles
    from envoi_trace_core.run.stored_repository import missing_commit

    bundle, increments = trace.with_name(BUNDLE_FILE), sorted((trace.parent / INCREMENTS).glob("[0-9]*.bundle"))
    found: list[Sequence[Path]] = [paths for paths in ([bundle] if bundle.is_file() else [], increments) if paths]
    for bundles in found:
        git = open_bundles(bundles, scratch / f"{bundles[0].stem}.git")
        if holds(git, commit):
            return git
    raise missing_commit(trajectory_id, commit, is_known=bool(found))
