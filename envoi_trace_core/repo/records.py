"""The commits of the record branch: their messages, written and read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import attrs

from envoi_trace_core.repo.git import Git
from envoi_trace_core.repo.patches import shown_path


@attrs.frozen(kw_only=True)
class Origin:
    """What a record commit was made for: the same origin is never recorded twice."""

    part: int
    """0 for the commit that stands before the first part."""
    call_key: str
    at: datetime

    @property
    def ref_name(self) -> str:
        """A name for it under `refs/parts/`."""
        return f"refs/parts/{self.part}/{int(self.at.timestamp() * 1_000_000)}/{self.call_key}"


@attrs.frozen(kw_only=True)
class Record:
    """A commit of the record branch."""

    commit: str
    tree: str
    parent: str | None
    sandbox_commit: str | None
    """The commit in the sandbox that it was made from."""
    skipped_files: tuple[str, ...]
    part: int | None
    call_key: str | None
    at: str | None

    def is_of(self, origin: Origin) -> bool:
        """Whether it was made for that very part."""
        return (self.part, self.call_key, self.at) == (origin.part, origin.call_key, _stamp(origin.at))


def write_record(
    git: Git,
    *,
    tree: str,
    parent: str | None,
    origin: Origin | None,
    at: datetime,
    sandbox_commit: str,
    skipped_files: Sequence[str],
) -> Record:
    """Make the commit object; no ref moves. Without an origin it is one of a test call."""
    title = "test call" if origin is None else "start" if origin.part == 0 else f"part {origin.part}"
    lines = [title, ""]
    if origin is not None:
        lines += [f"Part: {origin.part}", f"Call: {origin.call_key}"]
    lines += [f"At: {_stamp(at)}", f"Sandbox-Commit: {sandbox_commit}"]
    lines += [f"Skipped: {json.dumps(path)}" for path in skipped_files]
    date = f"@{int(at.timestamp())} +0000"
    commit = git.text(
        "commit-tree",
        tree,
        *(("-p", parent) if parent else ()),
        "-F",
        "-",
        stdin=("\n".join(lines) + "\n").encode(),
        env={"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date},
    )
    return Record(
        commit=commit,
        tree=tree,
        parent=parent,
        sandbox_commit=sandbox_commit,
        skipped_files=tuple(skipped_files),
        part=origin.part if origin else None,
        call_key=origin.call_key if origin else None,
        at=_stamp(at),
    )


def read_record(git: Git, revision: str) -> Record | None:
    """The record commit that a revision names; None when there is none."""
    words = git.text("rev-parse", "--verify", "-q", f"{revision}^{{commit}}", accept=(0, 1))
    if not words:
        return None
    head, _, message = git("cat-file", "commit", words).decode(errors="replace").partition("\n\n")
    headers = dict(reversed([_split(line) for line in head.splitlines()]))
    trailers = [_split(line) for line in message.splitlines()]
    fields = dict(trailers)
    part = fields.get("Part:")
    return Record(
        commit=words,
        tree=headers["tree"],
        parent=headers.get("parent"),
        sandbox_commit=fields.get("Sandbox-Commit:"),
        skipped_files=tuple(json.loads(value) for name, value in trailers if name == "Skipped:"),
        part=int(part) if part is not None and part.isdigit() else None,
        call_key=fields.get("Call:"),
        at=fields.get("At:"),
    )


def shown_paths(paths: Sequence[bytes]) -> tuple[str, ...]:
    """Paths as text."""
    return tuple(shown_path(path) for path in paths)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _split(line: str) -> tuple[str, str]:
    name, _, value = line.partition(" ")
    return name, value
