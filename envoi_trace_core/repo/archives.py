"""A mirror's history as files: bundles, and a commit as a tar archive."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from envoi_trace_core.errors import StorageError
from envoi_trace_core.repo.git import Git


@contextmanager
def _atomically(destination: Path) -> Iterator[Path]:
    """A path to write to; what stands there at the end becomes `destination`, durable, or nothing does."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as folder:
            partial = Path(folder) / "file"
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(destination)
    except OSError as error:
        raise StorageError(f"{destination} can't be written: {error.strerror or error}") from error


def write_bundle(git: Git, destination: Path, *, since: str | None) -> None:
    """Write the record as a bundle, whole or from a commit on; verified before it gets its name.

    Raises:
        StorageError: It could not be written.
    """
    with _atomically(destination) as partial:
        git("bundle", "create", "-q", str(partial), "HEAD", "--branches", *(("--not", since) if since else ()))
        git("bundle", "verify", str(partial))


def write_bundle_of(git: Git, destination: Path, refs: Sequence[str], *, without: Sequence[str]) -> None:
    """Write some refs as a bundle, less what other refs hold already.

    Raises:
        StorageError: It could not be written.
    """
    with _atomically(destination) as partial:
        git("bundle", "create", "-q", str(partial), *refs, *(("--not", *without) if without else ()))


def write_tar(git: Git, commit: str, destination: Path) -> None:
    """Write the plain files of a commit as a tar.gz.

    Raises:
        StorageError: There is no such commit, or it could not be written.
    """
    with _atomically(destination) as partial:
        tar = Path(partial.parent) / "tar"
        git("archive", "--format=tar", f"--output={tar}", commit)
        with (
            tar.open("rb") as source,
            partial.open("wb") as target,
            gzip.GzipFile(fileobj=target, mode="wb", filename="", mtime=0, compresslevel=1) as packed,
        ):
            shutil.copyfileobj(source, packed, 1024 * 1024)


def write_files(git: Git, commit: str, folder: Path) -> None:
    """Write the files of a commit into an empty folder: bytes, executable bits and symlinks.

    Raises:
        StorageError: There is no such commit, or it could not be written.
    """
    with tempfile.TemporaryDirectory(prefix="envoi-trace-index-") as scratch:
        env = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git("read-tree", commit, env=env)
        git("checkout-index", "-a", "-q", env=env | {"GIT_WORK_TREE": str(folder)})
