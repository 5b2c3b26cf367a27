"""OpenCode's record of its sessions as an archive on stdout, and back from stdin.

python driver.pyz save HOME MAX_BYTES        exit status 3 when there is none, 4 when it is too large
python driver.pyz restore HOME
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

DATABASE = "data/opencode/opencode.db"
NONE, TOO_LARGE = 3, 4


def save(home: Path, max_bytes: int) -> int:
    """A copy of the database as of one moment, with what its write-ahead log holds."""
    database = home / DATABASE
    if not database.exists():
        return NONE
    with tempfile.TemporaryDirectory(dir=home.parent) as aside:
        copies = _copy(database, Path(aside))
        if sum(path.stat().st_size for path in copies) > max_bytes:
            return TOO_LARGE
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|gz", compresslevel=3) as archive:
            for path in copies:
                archive.add(path, arcname=path.name)
    return 0


def _copy(database: Path, aside: Path) -> list[Path]:
    target = aside / database.name
    try:
        import sqlite3
    except ImportError:  # a Python without it: the files as they are, log first, so that no page is from the future
        names = (f"{database.name}-wal", database.name)
        found = [database.with_name(name) for name in names if database.with_name(name).exists()]
        return [Path(shutil.copy2(path, aside / path.name)) for path in found]
    source, copy = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20), sqlite3.connect(target)
    try:
        source.backup(copy)
    finally:
        source.close()
        copy.close()
    return [target]


def restore(home: Path) -> int:
    """Put the database in its place; only the names that `save` gives are taken."""
    folder = (home / DATABASE).parent
    folder.mkdir(parents=True, exist_ok=True)
    names = {Path(DATABASE).name, f"{Path(DATABASE).name}-wal"}
    with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()), mode="r:gz") as archive:
        for member in archive:
            if member.name in names and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                with (folder / member.name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    return 0


def main(arguments: list[str]) -> int:
    """Gives the exit status."""
    if arguments[0] == "save":
        return save(Path(arguments[1]), int(arguments[2]))
    return restore(Path(arguments[1]))
