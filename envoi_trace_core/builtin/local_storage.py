"""The `local` storage: objects as files below a folder of this machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from envoi_trace_core.errors import ConditionFailedError, KeyMissingError, StorageError, UsageError
from envoi_trace_core.protocols import Absent, AtVersion, ObjectInfo, Storage
from envoi_trace_core.specs import StorageSpec, option

if TYPE_CHECKING:
    from typing import BinaryIO

TEMPORARY_PREFIX = ".envoi-tmp-"
LOCK_NAME = ".envoi-tmp-lock"
"""Only made on file systems that can't lock a folder."""
LOCK_TIMEOUT_S = 30.0
STALE_TEMPORARY_S = 900.0
"""A temporary file that nobody wrote to for that long was left by a writer that was killed."""
_LOCK_POLL_S = 0.002
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


@attrs.frozen(kw_only=True)
class LocalStorageOptions:
    """The options of the `local` storage."""

    root: Path | None = option(None, "folder below which trajectories/ stands; default: the working directory")


@attrs.frozen
class LocalStorage:
    """Objects as files below `root`. A version is the file's identity: inode, size and time of the put."""

    root: Path

    def uri(self, key: str) -> str:
        """The file's path."""
        return str(self._path(key))

    async def put(self, key: str, data: bytes | Path, *, condition: Absent | AtVersion | None = None) -> str:
        """See `Storage.put`. Two processes that put the same key take turns."""
        return await _in_thread(lambda: self._put(key, data, condition))

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `Storage.get`."""
        return await _in_thread(lambda: self._get(key, start, length))

    async def stat(self, key: str) -> ObjectInfo | None:
        """See `Storage.stat`."""
        return await _in_thread(lambda: self._stat(key))

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        """See `Storage.list`."""
        return await _in_thread(lambda: self._list(prefix))

    async def delete(self, key: str) -> None:
        """See `Storage.delete`. Folders that it leaves empty go too."""
        await _in_thread(lambda: self._delete(key))

    async def close(self) -> None:
        """Nothing to let go of."""

    # -- the same, in a thread ----------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        segments = key.split("/")
        if "\0" in key or any(not s or s in (".", "..") or s.startswith(TEMPORARY_PREFIX) for s in segments):
            raise StorageError(f"{key!r:.200} can't be a key: its segments become names of folders and files")
        return self.root.joinpath(*segments)

    def _put(self, key: str, data: bytes | Path, condition: Absent | AtVersion | None) -> str:
        path = self._path(key)
        # The folder of a key goes when another key's delete leaves it empty: then it is made again.
        for attempts_left in (2, 1, 0):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                return self._put_in_folder(path, data, condition)
            except FileNotFoundError as error:
                if not attempts_left or (isinstance(data, Path) and not data.exists()):
                    raise _storage_error(f"{path} can't be written", error) from error
            except OSError as error:
                self._remove_empty_folders(path.parent)
                raise _storage_error(f"{path} can't be written", error) from error
        raise AssertionError("unreachable")

    def _put_in_folder(self, path: Path, data: bytes | Path, condition: Absent | AtVersion | None) -> str:
        key_hash = hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{key_hash}-{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as file:
                _fill(file, data)
                file.flush()
                os.fsync(file.fileno())
            with self._locked():
                previous = _info("", path)
                _check(path, previous, condition)
                _stamp(temporary, previous)
                temporary.replace(path)
                version = _version(path.stat())
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
        _remove_stale_temporaries(path.parent)
        return version

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only one who replaces a file below the root, over all threads and processes."""
        import fcntl

        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StorageError(
                            f"{self.root} stayed locked by another process for {LOCK_TIMEOUT_S:.0f} s", retryable=True
                        ) from None
                    time.sleep(_LOCK_POLL_S)
                except OSError as error:
                    # NFS locks only what is open for writing, which a folder can't be.
                    if error.errno not in (errno.EBADF, errno.ENOTSUP, errno.EINVAL):
                        raise
                    os.close(descriptor)
                    descriptor = os.open(self.root / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
            yield
        finally:
            os.close(descriptor)

    def _get(self, key: str, start: int, length: int | None) -> bytes:
        path = self._path(key)
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(-1 if length is None else length)
        except OSError as error:
            if error.errno in _MISSING:
                raise KeyMissingError(f"there is no {path}") from error
            raise _storage_error(f"{path} can't be read", error) from error

    def _stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            return _info(key, path)
        except OSError as error:
            raise _storage_error(f"{path} can't be read", error) from error

    def _list(self, prefix: str) -> Sequence[ObjectInfo]:
        folder, _, _ = prefix.rpartition("/")
        base = self._path(folder) if folder else self.root
        found: list[ObjectInfo] = []
        try:
            for key, path in _files(base, f"{folder}/" if folder else "", prefix, set()):
                info = _info(key, path)
                if info is not None:
                    found.append(info)
        except OSError as error:
            raise _storage_error(f"{base} can't be listed", error) from error
        return sorted(found, key=lambda info: info.key)

    def _delete(self, key: str) -> None:
        path = self._path(key)
        try:
            with self._locked():
                path.unlink(missing_ok=True)
            if path.parent.is_dir():
                _sync_folder(path.parent)
        except OSError as error:
            if error.errno not in (*_MISSING, errno.EPERM):
                raise _storage_error(f"{path} can't be removed", error) from error
            if path.is_file():
                raise _storage_error(f"{path} can't be removed", error) from error
        self._remove_empty_folders(path.parent)

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


async def _in_thread[T](call: Callable[[], T]) -> T:
    from anyio import to_thread

    return await to_thread.run_sync(call)


def _fill(file: BinaryIO, data: bytes | Path) -> None:
    if isinstance(data, Path):
        with data.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)
    else:
        file.write(data)


def _check(path: Path, previous: ObjectInfo | None, condition: Absent | AtVersion | None) -> None:
    if isinstance(condition, Absent) and previous is not None:
        raise ConditionFailedError(f"{path} exists already")
    if isinstance(condition, AtVersion) and (previous is None or previous.version != condition.version):
        raise ConditionFailedError(f"{path} was {'removed' if previous is None else 'changed'} by another writer")


def _stamp(temporary: Path, previous: ObjectInfo | None) -> None:
    """Give a new file a time that its predecessor did not have: inodes are used again, and clocks tick coarsely."""
    now_ns = time.time_ns()
    if previous is not None:
        now_ns = max(now_ns, int(previous.version.rpartition("-")[2]) + 1000)
    os.utime(temporary, ns=(now_ns, now_ns))


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns}"


def _info(key: str, path: Path) -> ObjectInfo | None:
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise
    if path.is_dir():
        return None
    return ObjectInfo(
        key=key,
        size_bytes=status.st_size,
        version=_version(status),
        modified_at=datetime.fromtimestamp(status.st_mtime, UTC),
    )


def _files(folder: Path, key_prefix: str, wanted: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, Path]]:
    """Every file at or below a folder whose key starts with `wanted`. Links are followed, in circles too, once."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        entries = list(os.scandir(folder))
    except OSError as error:
        if error.errno in _MISSING:
            return
        raise
    for entry in entries:
        key = key_prefix + entry.name
        if entry.name.startswith(TEMPORARY_PREFIX):
            continue
        if entry.is_dir():
            if f"{key}/".startswith(wanted) or wanted.startswith(f"{key}/"):
                yield from _files(Path(entry.path), f"{key}/", wanted, seen)
        elif entry.is_file() and key.startswith(wanted):
            yield key, Path(entry.path)


def _remove_stale_temporaries(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            is_ours = entry.name.startswith(TEMPORARY_PREFIX) and entry.name != LOCK_NAME
            if is_ours and time.time() - entry.stat().st_mtime > STALE_TEMPORARY_S:
                Path(entry.path).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # removed with all that was in it, after we were done
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(what: str, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{what}: no space left", mend="free some space on that disk", retryable=True)
    return StorageError(f"{what}: {error.strerror or error}", retryable=error.errno in (errno.EIO, errno.EAGAIN))


async def _create(options: LocalStorageOptions) -> Storage:
    return LocalStorage(await _in_thread(lambda: _make_root(options)))


def _make_root(options: LocalStorageOptions) -> Path:
    root = Path(options.root or Path()).expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the storage's folder {root} can't be made: {error.strerror}", mend="--storage-opt root=FOLDER"
        ) from error
    return root


LOCAL_STORAGE = StorageSpec(
    name="local",
    summary="Files below a folder of this machine.",
    options=LocalStorageOptions,
    create=_create,
)
