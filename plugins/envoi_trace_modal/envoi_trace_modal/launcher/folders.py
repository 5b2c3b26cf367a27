"""A task's and an environment's folder on their way to another machine."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from envoi_trace_core.domain.content import IGNORED_FOLDERS, hash_folder
from envoi_trace_core.errors import UsageError

MAX_BYTES = 256 * 1024 * 1024
MAX_FILES = 20_000


def pack(folder: Path) -> bytes:
    """A folder as tar.gz, as its content hash sees it: without `__pycache__`, `.git`, sockets and the like.

    Links stay links, as long as they stay within the folder.

    Raises:
        UsageError: It is too large, can't be read, or has a link that leads out of it: what that names
            would not be there, and might be no business of anybody elsewhere.
    """
    packed = io.BytesIO()
    size_bytes = count = 0
    try:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
            for path in _walk(folder):
                if path.is_symlink():
                    _check_link(path, folder)
                size_bytes += path.lstat().st_size
                count += 1
                if size_bytes > MAX_BYTES or count > MAX_FILES:
                    raise UsageError(
                        f"{folder} is too large to travel: more than {MAX_BYTES // 1024**2} MiB or {MAX_FILES} files",
                        mend="take out what the run does not need, or fetch it in setup.sh or the Dockerfile",
                    )
                archive.add(path, arcname=path.relative_to(folder).as_posix(), recursive=False, filter=_plain)
    except OSError as error:
        raise UsageError(f"{error.filename} can't be read: {error.strerror}", mend="ls -l shows why") from error
    return packed.getvalue()


def unpack(data: bytes, wanted: Path, elsewhere: Path, content_hash: str) -> Path:
    """Put a folder where it stood on the user's machine, so that what the run stores of it is true there too.

    What stands there already is never touched: unless it is the very same, the folder goes below `elsewhere`.

    Returns:
        Where it is; the last word is that of `wanted`.
    """
    if wanted.is_dir() and hash_folder(wanted) == content_hash:
        return wanted
    if not os.path.lexists(wanted):
        try:
            wanted.mkdir(parents=True)
        except OSError:
            pass  # a read-only place, or a file on the way
        else:
            _extract(data, wanted)
            return wanted
    target = elsewhere / wanted.name
    target.mkdir(parents=True)
    _extract(data, target)
    return target


def _extract(data: bytes, target: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        archive.extractall(target, filter="data")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if name not in IGNORED_FOLDERS)
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
                yield path


def _raise(error: OSError) -> None:
    raise error


def _check_link(path: Path, folder: Path) -> None:
    target = path.readlink()
    lexical = os.path.normpath(path.relative_to(folder).parent / target)
    leads_out = target.is_absolute() or lexical == ".." or lexical.startswith("../")
    if leads_out or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UsageError(
            f"{path} is a link that leads out of the folder, so it can't travel",
            mend=f"put what it names in its place: cp -rL {path} {path}.copy && mv {path}.copy {path}",
        )


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
