"""A mirror's history in numbered bundles, each with what came since the ones before: exact up to a given commit.

The record of a mirror may be ahead of the journal (a part's commit is made before the part is recorded). What goes
on elsewhere must go on at the journal's newest commit, so an increment ends there, under refs of its own:

    refs/preserved/<number>/head     the journal's newest commit
    refs/preserved/<number>/<hash>   the commit of a test call
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from envoi_trace_core.errors import StorageError
from envoi_trace_core.repo.archives import write_bundle_of
from envoi_trace_core.repo.git import Git, GitError
from envoi_trace_core.repo.mirror import RECORD_REF

PRESERVED_REFS = "refs/preserved"
TEST_REFS = "refs/heads/tests"


def write_increment(git: Git, destination: Path, *, number: int, head: str) -> bool:
    """Write what the bundles before `number` do not hold, up to a commit and with all commits of test calls.

    Refs of this number or later are of bundles that were never stored: they are made anew.

    Returns:
        Whether there was anything; if not, no file is written.

    Raises:
        StorageError: It could not be written.
    """
    stored: dict[str, str] = {}
    stale: list[str] = []
    wanted = {"head": head}
    for name, commit in _refs(git, PRESERVED_REFS, TEST_REFS).items():
        if name.startswith(f"{TEST_REFS}/"):
            wanted[name.rsplit("/", 1)[-1]] = commit
        elif int(name.split("/")[2]) < number:
            stored[name] = commit
        else:
            stale.append(name)
    known = set(stored.values())
    new = {f"{PRESERVED_REFS}/{number:06d}/{name}": commit for name, commit in wanted.items() if commit not in known}
    moves = [f"delete {name}" for name in stale if name not in new]
    moves += [f"update {name} {commit}" for name, commit in new.items()]
    if moves:
        git("update-ref", "--stdin", stdin=("\n".join(moves) + "\n").encode())
    if not new:
        return False
    write_bundle_of(git, destination, list(new), without=_newest(stored))
    return True


def has_increment(directory: Path, number: int) -> bool:
    """Whether a mirror made, or took, the bundle of that number."""
    if not (directory / "HEAD").is_file():
        return False
    try:
        return bool(_refs(Git(directory=directory), f"{PRESERVED_REFS}/{number:06d}"))
    except GitError:
        return False


def import_increments(directory: Path, bundles: Sequence[Path], head: str) -> None:
    """Make a mirror of bundles, oldest first, whose record ends at a commit.

    Raises:
        StorageError: One is damaged, or the commit is in none.
    """
    git = Git.create(directory)
    specs = [f"+{PRESERVED_REFS}/*:{PRESERVED_REFS}/*"]
    for bundle in bundles:
        try:
            git("fetch", "-q", "--no-tags", "--no-write-fetch-head", str(bundle), *specs)
        except GitError as error:
            raise StorageError(f"the stored bundle {bundle.name} can't be read: {error.message}") from error
    git("update-ref", RECORD_REF, head)
    for name, commit in _refs(git, PRESERVED_REFS).items():
        key = name.rsplit("/", 1)[-1]
        if key != "head" and git.text("rev-list", "--max-count=1", commit, f"^{head}"):
            git("update-ref", f"{TEST_REFS}/{key}", commit)


def _refs(git: Git, *prefixes: str) -> dict[str, str]:
    lines = git.text("for-each-ref", "--format=%(refname) %(objectname)", *prefixes).splitlines()
    return dict(line.split(" ", 1) for line in lines)


def _newest(stored: dict[str, str]) -> list[str]:
    """The record is a line: its newest stored commit has all others behind it."""
    heads = sorted(name for name in stored if name.endswith("/head"))
    return [*heads[-1:], *(name for name in stored if not name.endswith("/head"))]
