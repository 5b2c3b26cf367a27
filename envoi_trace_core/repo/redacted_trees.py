"""Trees without secrets: every new or changed file of a tree, and every name, passes the redactor."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import attrs

from envoi_trace_core.repo.git import Git, GitError
from envoi_trace_core.repo.patches import EMPTY_TREE

Redact = Callable[[bytes], bytes]

_DELETED_MODE = b"000000"
_GITLINK_MODE = b"160000"


@attrs.frozen
class _Substitute:
    """What stands in a redacted tree for one of its entries."""

    mode: bytes
    blob: str
    path: bytes


@attrs.define(kw_only=True)
class RedactedTrees:
    """Makes redacted trees one after the other; each costs what it differs from the one before."""

    git: Git
    redact: Redact

    _tree: str = attrs.field(default=EMPTY_TREE, init=False)
    """The raw tree that the substitutes are for."""
    _substitutes: dict[bytes, _Substitute] = attrs.field(factory=dict, init=False)

    def of(self, raw_tree: str) -> str:
        """The tree with every secret replaced; the same tree when it holds none."""
        substitutes = dict(self._substitutes)
        changed: list[tuple[bytes, str, bytes]] = []
        for mode, blob, path in self._changes(raw_tree):
            substitutes.pop(path, None)
            if mode != _DELETED_MODE:
                changed.append((mode, blob, path))
        contents = self._contents(blob for mode, blob, _path in changed if mode != _GITLINK_MODE)
        for mode, blob, path in changed:
            new_blob = blob if mode == _GITLINK_MODE else self._redacted_blob(blob, next(contents))
            new_path = self._redacted_path(path)
            if (new_blob, new_path) != (blob, path):
                substitutes[path] = _Substitute(mode, new_blob, new_path)
        contents.close()
        tree = self._substituted(raw_tree, substitutes) if substitutes else raw_tree
        self._tree, self._substitutes = raw_tree, substitutes
        return tree

    def _changes(self, raw_tree: str) -> Iterator[tuple[bytes, str, bytes]]:
        words = iter(self.git("diff-tree", "-r", "--raw", "-z", "--no-abbrev", self._tree, raw_tree).split(b"\0"))
        for word in words:
            if word:
                _old_mode, mode, _old_blob, blob, _status = word.split(b" ")
                yield mode, blob.decode(), next(words)

    def _contents(self, blobs: Iterable[str]) -> Generator[bytes]:
        """The contents of blobs, in order; one at a time in memory.

        Raises:
            GitError: One is missing.
        """
        return _read_blobs(self.git, list(blobs))

    def _redacted_blob(self, blob: str, content: bytes) -> str:
        redacted = self.redact(content)
        if redacted == content:
            return blob
        return self.git.text("hash-object", "-w", "--stdin", stdin=redacted)

    def _redacted_path(self, path: bytes) -> bytes:
        redacted = self.redact(path)
        if redacted == path:
            return path
        names = [name for name in redacted.replace(b"\0", b"").split(b"/") if name not in (b"", b".", b"..")]
        if not names or any(name.lower() == b".git" for name in names):
            names = [b"redacted"]
        # Two names that differ in a secret only must not become one.
        names[-1] += b"-" + hashlib.sha256(path).hexdigest()[:8].encode()
        return b"/".join(names)

    def _substituted(self, raw_tree: str, substitutes: dict[bytes, _Substitute]) -> str:
        with tempfile.TemporaryDirectory(dir=self.git.directory, prefix="index-") as folder:
            env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self.git("read-tree", raw_tree, env=env)
            lines = [b"0 %s\t%s\0" % (b"0" * 40, path) for path in substitutes]
            lines += [b"%s %s\t%s\0" % (new.mode, new.blob.encode(), new.path) for new in substitutes.values()]
            self.git("update-index", "--replace", "-z", "--index-info", stdin=b"".join(lines), env=env)
            return self.git.text("write-tree", env=env)


def _read_blobs(git: Git, blobs: list[str]) -> Generator[bytes]:
    if not blobs:
        return
    with git.open("cat-file", "--batch") as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        try:
            for blob in blobs:
                process.stdin.write(f"{blob}\n".encode())
                process.stdin.flush()
                header = process.stdout.readline().split()
                if len(header) != 3 or header[1] != b"blob":
                    raise GitError(f"blob {blob} is missing in the mirror")
                content = process.stdout.read(int(header[2]))
                process.stdout.read(1)
                yield content
        finally:
            process.kill()
