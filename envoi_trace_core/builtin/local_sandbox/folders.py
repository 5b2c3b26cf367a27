"""The folders of local sandboxes on the host: where they are, what they say of themselves, how they go away."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.errors import SandboxError, UsageError
from envoi_trace_core.protocols import SandboxRole
from envoi_trace_core.state import state_dir

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_GONE = ".gone-"
LOCK_TIMEOUT_S = 60.0


@attrs.frozen
class SandboxFolder:
    """One sandbox's folder on the host."""

    path: Path

    @property
    def id(self) -> str:
        """The sandbox's id."""
        return self.path.name

    @property
    def workspace(self) -> Path:
        """Where the agent works."""
        return self.path / "workspace"

    @property
    def home(self) -> Path:
        """The agent's home."""
        return self.path / "home"

    @property
    def tmp(self) -> Path:
        """Its /tmp."""
        return self.path / "tmp"

    @property
    def support(self) -> Path:
        """What the core and agents keep there."""
        return self.path / "support"

    @property
    def empty(self) -> Path:
        """Shown in place of folders that are hidden."""
        return self.path / "empty"

    @property
    def log(self) -> Path:
        """What bubblewrap and init said."""
        return self.path / "init.log"

    @property
    def mark(self) -> str:
        """Names it among all sandboxes of this machine: an id is unique only below its root."""
        return f"{self.id}-{hashlib.sha256(str(self.path).encode()).hexdigest()[:16]}"

    def make(self) -> None:
        """Make it with its parts, for this user alone."""
        self.path.mkdir(mode=0o700, parents=True)
        for part in (self.workspace, self.home, self.tmp, self.support, self.empty):
            part.mkdir(mode=0o700)

    @contextlib.contextmanager
    def socket_address(self) -> Iterator[str]:
        """The address of its control socket, short enough for the 104 to 108 bytes that addresses may have."""
        if sys.platform.startswith("linux"):
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                yield f"/proc/self/fd/{fd}/control.sock"
            finally:
                os.close(fd)
        else:
            digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
            yield str(Path(tempfile.gettempdir()) / f"envoi-trace-{digest}.sock")


@attrs.frozen(kw_only=True)
class Record:
    """What `sandbox.json` says of a sandbox."""

    trajectory_id: str
    role: SandboxRole
    created_at: datetime
    isolated: bool
    pid: int
    """Of init, as the host counts."""
    pid_started: str
    """When that process started, in the system's notation: tells it from a later one of the same number."""
    ends_at: datetime | None = None
    """When it ends, however long it is kept alive."""

    def save(self, folder: SandboxFolder) -> None:
        """Write it whole."""
        draft = folder.path / "sandbox.json.tmp"
        draft.write_text(json.dumps(attrs.asdict(self), default=datetime.isoformat))
        draft.replace(folder.path / "sandbox.json")

    @classmethod
    def load(cls, folder: SandboxFolder) -> Record | None:
        """Read it; None when there is none that could be understood."""
        try:
            found: dict[str, Any] = json.loads((folder.path / "sandbox.json").read_text())
            return cls(
                trajectory_id=str(found["trajectory_id"]),
                role="evaluation" if found["role"] == "evaluation" else "agent",
                created_at=datetime.fromisoformat(found["created_at"]),
                isolated=bool(found["isolated"]),
                pid=int(found["pid"]),
                pid_started=str(found["pid_started"]),
                ends_at=datetime.fromisoformat(found["ends_at"]) if found.get("ends_at") else None,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_replaced(self, folder: SandboxFolder) -> bool:
        """Whether another sandbox has taken the name, and the folder, since."""
        newest = Record.load(folder)
        return newest is not None and (newest.pid, newest.pid_started) != (self.pid, self.pid_started)

    def is_running(self) -> bool:
        """Whether init still runs."""
        return process_start(self.pid) == self.pid_started != ""


def process_start(pid: int) -> str:
    """When a living process started, in the system's own notation; empty when it is dead."""
    if sys.platform.startswith("linux"):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in ("Z", "X") else fields[19]
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
    )
    state, _, started = found.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()


def sandboxes_root(options: LocalSandboxOptions) -> Path:
    """The folder in which sandboxes are made."""
    return Path(options.root).expanduser().absolute() if options.root else state_dir() / "sandboxes"


def folder_for_name(options: LocalSandboxOptions, name: str) -> SandboxFolder:
    """The folder of the sandbox with that name; any text can be one."""
    if not _ID.fullmatch(name):
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:40]
        name = f"{slug or 'sandbox'}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:16]}"
    return SandboxFolder(sandboxes_root(options) / name)


def folder_for_id(options: LocalSandboxOptions, sandbox_id: str) -> SandboxFolder:
    """The folder of the sandbox with that id.

    Raises:
        UsageError: No sandbox can have that id.
    """
    if not _ID.fullmatch(sandbox_id):
        raise UsageError(f"{sandbox_id!r} is no id of a local sandbox.")
    return SandboxFolder(sandboxes_root(options) / sandbox_id)


def all_folders(options: LocalSandboxOptions) -> list[SandboxFolder]:
    """Every sandbox's folder, living or dead."""
    try:
        names = sorted(os.listdir(sandboxes_root(options)))  # noqa: PTH208
    except FileNotFoundError:
        return []
    return [SandboxFolder(sandboxes_root(options) / name) for name in names if _ID.fullmatch(name)]


@contextlib.contextmanager
def creation_lock(root: Path) -> Iterator[None]:
    """One creation at a time among all programs of this user, so that a half-made folder is never taken for a dead one.

    Args:
        root: The folder in which sandboxes are made.

    Raises:
        SandboxError: Another holds it for too long.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"Local sandboxes can't be made in {root}: {error.strerror}.") from error
    try:
        until = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise SandboxError(f"Another program holds {root / '.lock'}.", retryable=True) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def sweep(options: LocalSandboxOptions) -> None:
    """Remove the folders of sandboxes that ended by themselves. Only under the creation lock."""
    for folder in all_folders(options):
        record = Record.load(folder)
        if record is None or not record.is_running():
            remove_folder(folder)
    for rest in sandboxes_root(options).glob(f"{_GONE}*"):
        remove_tree(rest)


def remove_ended(folder: SandboxFolder, record: Record) -> None:
    """Remove the folder of a sandbox that has ended, unless a new one of its name stands there by now.

    Raises:
        OSError: It can't be removed.
        SandboxError: Another program makes a sandbox for too long.
    """
    with creation_lock(folder.path.parent):
        if record.is_replaced(folder):
            return
        gone = _put_aside(folder)
    if gone is not None:
        remove_tree(gone)


def remove_folder(folder: SandboxFolder) -> None:
    """Remove a dead sandbox's folder; its name is free at once."""
    gone = _put_aside(folder)
    if gone is not None:
        remove_tree(gone)


def _put_aside(folder: SandboxFolder) -> Path | None:
    if not sys.platform.startswith("linux"):
        with folder.socket_address() as address:
            Path(address).unlink(missing_ok=True)
    gone = folder.path.with_name(f"{_GONE}{folder.id}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        folder.path.rename(gone)
    except FileNotFoundError:
        return None
    return gone


def remove_tree(top: Path) -> None:
    """Remove a tree that its owner may have made hard to remove: of any depth, without write permissions.

    Folders are moved up beneath `top` before they are emptied, so no path gets too long and nothing recurses.
    """
    try:
        shutil.rmtree(top)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        _remove_hard_tree(top)


def _remove_hard_tree(top: Path) -> None:
    count = 0
    top.chmod(stat.S_IRWXU)
    pending = [top]
    folders = []
    while pending:
        folder = pending.pop()
        folders.append(folder)
        with os.scandir(folder) as entries:
            found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path, is_folder in found:
            if is_folder:
                os.chmod(path, stat.S_IRWXU)  # noqa: PTH101
                count += 1
                moved = top / f".envoi-trace-gone-{os.getpid()}-{count}"
                Path(path).rename(moved)
                pending.append(moved)
            else:
                os.unlink(path)  # noqa: PTH108
    for folder in reversed(folders):
        folder.rmdir()
