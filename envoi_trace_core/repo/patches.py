"""What changed between two commits: as a list of files, and as a unified diff."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Literal

from envoi_trace_core.domain.parts import ChangedFile
from envoi_trace_core.repo.git import Git, GitError

MAX_PATCH_BYTES = 1024 * 1024
DIFF_TIMEOUT_S = 120.0
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

_STATUS: dict[str, Literal["added", "modified", "deleted", "renamed", "type_changed"]] = {
    "A": "added",
    "M": "modified",
    "D": "deleted",
    "R": "renamed",
    "T": "type_changed",
}
_COMMON = ("-r", "-M", "--no-commit-id", "--no-ext-diff", "--no-textconv")


def shown_path(path: bytes) -> str:
    r"""A path as text; bytes that are not UTF-8 stand as `\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def changed_files(git: Git, before: str, after: str) -> tuple[ChangedFile, ...]:
    """The files that differ, renames found, sorted by path. A change too large to count lines of has None for them."""
    try:
        output = git("diff-tree", *_COMMON, "--raw", "--numstat", "-z", before, after, timeout_s=DIFF_TIMEOUT_S)
    except GitError:
        output = git("diff-tree", "-r", "--no-commit-id", "--raw", "-z", before, after)
    statuses: dict[bytes, str] = {}
    lines: dict[bytes, tuple[int | None, int | None]] = {}
    words = iter(output.split(b"\0"))
    for word in words:
        if word.startswith(b":"):
            status = chr(word.rsplit(b" ", 1)[1][0])
            path = next(words)
            statuses[next(words) if status in "RC" else path] = status
        elif word:
            additions, deletions, path = word.split(b"\t", 2)
            lines[path or _second(words)] = (_count(additions), _count(deletions))
    return tuple(
        ChangedFile(
            path=shown_path(path),
            status=_STATUS.get(status, "modified"),
            additions=lines.get(path, (None, None))[0],
            deletions=lines.get(path, (None, None))[1],
        )
        for path, status in sorted(statuses.items())
    )


def patch(git: Git, before: str, after: str) -> str:
    """The unified diff with renames and binary markers, cut at 1 MiB with a last line that says so."""
    process = git.open("diff-tree", *_COMMON, "-p", before, after)
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018
    timer = threading.Timer(DIFF_TIMEOUT_S, process.kill)
    timer.start()
    data = b""
    with process:
        try:
            data = process.stdout.read(MAX_PATCH_BYTES + 1)
        finally:
            timer.cancel()
            is_whole = len(data) <= MAX_PATCH_BYTES and process.wait() == 0
            process.kill()
    text = data[:MAX_PATCH_BYTES]
    if not is_whole:
        text = text[: text.rfind(b"\n") + 1]
        text += f"[the patch is cut here; the whole of it: git diff -M {before[:12]} {after[:12]}]\n".encode()
    return text.decode("utf-8", "replace")


def _second(words: Iterator[bytes]) -> bytes:
    next(words)
    return next(words)


def _count(number: bytes) -> int | None:
    return None if number == b"-" else int(number)
