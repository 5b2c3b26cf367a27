"""What was found about a tree, kept for the next submission of the same tree."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CODE = ("*.py", "*.toml", "basics/*")
POLL_S = 0.05


def digest(folder: Path, patterns: tuple[str, ...] = ("**/*",)) -> str:
    """SHA-256 of the files below a folder: names, whether they can be run, contents."""
    total = hashlib.sha256()
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    for path in paths:
        if path.is_symlink():
            kind, content = "link", os.fsencode(path.readlink())
        elif path.is_file():
            kind, content = "run" if os.access(path, os.X_OK) else "file", path.read_bytes()
        else:
            continue
        name = os.fsencode(path.relative_to(folder))
        total.update(b"%s %d %d\0" % (kind.encode(), len(name), len(content)) + name + content)
    return total.hexdigest()


class Cache:
    """Results by tree and test. A damaged or missing one is computed again."""

    def __init__(self, folder: Path, environment: Path, tree: Path) -> None:
        """Args: where it lies, the environment (other tests give other results), the submission."""
        own = hashlib.sha256((digest(environment, CODE) + digest(tree)).encode()).hexdigest()
        self.folder = folder / "results" / own

    def get(self, name: str) -> dict | None:
        """What is known."""
        with contextlib.suppress(OSError, ValueError):
            value = json.loads(self._path(name, "json").read_bytes())
            if isinstance(value, dict):
                return value
        return None

    def put(self, name: str, value: dict) -> None:
        """Keep it: whole or not at all."""
        path = self._path(name, "json")
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a full disk costs the next one time, nothing else
            unfinished.write_text(json.dumps(value))
            unfinished.replace(path)

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """One at a time among all processes; so the second of two equal trees finds the first one's result."""
        with self._path(name, "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(POLL_S)
            yield

    def _path(self, name: str, suffix: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name.replace('/', '.')}.{suffix}"
