"""Folders of ours as tar archives for a sandbox."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from envoi_trace_core.errors import HarnessError

LEFT_OUT = frozenset({"__pycache__", ".git", ".venv", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache"})
MAX_ENVIRONMENT_BYTES = 1024 * 1024 * 1024
MAX_SUBMISSION_BYTES = 512 * 1024 * 1024
RUNTIMES_OWN = "_upload.tar.gz"
"""The runtime keeps the submission's archive under this name while it unpacks it into the same folder."""


def pack_environment(directory: Path) -> bytes:
    """The environment's folder as tar.gz, without caches and version control; links are followed.

    Raises:
        HarnessError: It is larger than 1 GiB.
    """
    files = ((path, name) for path, name in _walk(directory, LEFT_OUT, follow=True) if path.is_file())
    return _pack(files, MAX_ENVIRONMENT_BYTES, f"The environment's folder {directory}", dereference=True)


def pack_submission(tree: Path) -> bytes:
    """An exported commit as tar.gz that the runtime can unpack.

    It refuses an archive as a whole for one link that leads out of it (a virtual environment has some), so
    such links stay out, as do sockets and the like.

    Raises:
        HarnessError: It is larger than 512 MiB.
    """
    root = os.path.realpath(tree)
    files = ((path, name) for path, name in _walk(tree, frozenset(), follow=False) if _can_unpack(path, name, root))
    return _pack(files, MAX_SUBMISSION_BYTES, "The submission", dereference=False)


def _walk(root: Path, left_out: frozenset[str], *, follow: bool) -> Iterator[tuple[Path, str]]:
    for folder, folders, files in os.walk(root, followlinks=follow):
        folders[:] = sorted(name for name in folders if name not in left_out)
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            yield path, os.fspath(path.relative_to(root))


def _can_unpack(path: Path, name: str, root: str) -> bool:
    mode = path.lstat().st_mode
    if not stat.S_ISLNK(mode):
        return (stat.S_ISREG(mode) and name != RUNTIMES_OWN) or stat.S_ISDIR(mode)
    target = path.readlink()
    lexical = os.path.normpath(Path(name).parent / target)
    leads_out = target.is_absolute() or lexical == ".." or lexical.startswith("../")
    return not leads_out and Path(os.path.realpath(path)).is_relative_to(root)


def _pack(files: Iterator[tuple[Path, str]], max_bytes: int, what: str, *, dereference: bool) -> bytes:
    packed = io.BytesIO()
    size_bytes = 0
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1, dereference=dereference) as archive:
        for path, name in files:
            size_bytes += path.lstat().st_size
            if size_bytes > max_bytes:
                raise HarnessError(f"{what} is larger than {max_bytes // (1024 * 1024)} MiB.")
            archive.add(path, arcname=name, recursive=False, filter=_plain)
    return packed.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    if entry.islnk():  # a second name of a file; the export has none, an environment's folder may
        entry.type = tarfile.REGTYPE
    return entry
