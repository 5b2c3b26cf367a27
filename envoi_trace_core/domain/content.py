"""The content of a folder as one hash: what a trace says of the task and the environment that it ran."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

IGNORED_FOLDERS = frozenset({"__pycache__", ".git"})


def absolute_folder(path: Path) -> Path:
    """The path as an absolute one whose last word is a name, also for `..`; a symlink keeps its own name."""
    return path.resolve() if ".." in path.parts else path.absolute()


def hash_folder(folder: Path) -> str:
    """SHA-256 over names and bytes of all files, in the order of their paths; 64 hexadecimal digits.

    A symlink counts by its target's name and is not followed. `__pycache__` and `.git` don't count.

    Raises:
        OSError: A file can't be read.
    """
    digest = hashlib.sha256()
    for path in _files(folder):
        name = os.fsencode(path.relative_to(folder).as_posix())
        if path.is_symlink():
            kind, size, content = b"link", None, os.fsencode(path.readlink())
            digest.update(b"%s %d %d\0%s%s" % (kind, len(name), len(content), name, content))
            continue
        size = path.stat().st_size
        digest.update(b"file %d %d\0%s" % (len(name), size, name))
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in folder.walk():
        links = [name for name in folders if (parent / name).is_symlink()]
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS and name not in links]
        found += [
            parent / name for name in (*files, *links) if (parent / name).is_symlink() or (parent / name).is_file()
        ]
    return sorted(found, key=lambda path: os.fsencode(path.relative_to(folder).as_posix()))
