"""Stored bundles as a repository again. They come from a storage, so they are not trusted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from envoi_trace_core.errors import TraceFormatError
from envoi_trace_core.repo.git import Git, GitError

_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def is_commit_id(text: str) -> bool:
    """Whether it can be one, and nothing that git would take for an option or a name."""
    return _COMMIT.fullmatch(text) is not None


def open_bundles(bundles: Sequence[Path], directory: Path) -> Git:
    """A repository with all that bundles hold, each of which may go on from those before it.

    Raises:
        TraceFormatError: One is damaged.
    """
    git: Git | None = None
    for number, bundle in enumerate(bundles, 1):
        try:
            git = git or Git.create(directory)
            specs = [f"refs/{kind}/*:refs/bundle/{number}/{kind}/*" for kind in ("heads", "preserved")]
            git("fetch", "-q", "--no-tags", "--no-write-fetch-head", str(bundle.absolute()), *specs)
        except GitError as error:
            raise TraceFormatError(f"the bundle {bundle} can't be read: {error.message}") from error
    return git or Git.create(directory)


def holds(git: Git, commit: str) -> bool:
    """Whether a repository has a commit, whole."""
    if not is_commit_id(commit):
        return False
    try:
        git("cat-file", "-e", f"{commit}^{{tree}}")
    except GitError:
        return False
    return True
