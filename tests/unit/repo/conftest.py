"""A sandbox of real commands in a temp folder, and ways to compare folders byte for byte."""

# Tests block as they like, and odd names need plain bytes.
# ruff: noqa: ASYNC240, PTH114, PTH115, PTH118, PTH123

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import attrs
import pytest

from envoi_trace_core.errors import SandboxTimeoutError
from envoi_trace_core.protocols import CommandResult


@attrs.define
class FolderSandbox:
    """Only what checkpoints need: run, read_file, write_file."""

    root: Path
    id: str = "folder"
    python: str | None = None
    ends_at: datetime | None = None
    user: int | None = None
    """Whose the commands are; None for the tests' own."""

    def __attrs_post_init__(self) -> None:
        for name in ("workspace", "support", "home"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def workspace(self) -> str:
        return str(self.root / "workspace")

    @property
    def support_dir(self) -> str:
        return str(self.root / "support")

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        max_output_bytes: int = 64 * 1024 * 1024,
    ) -> CommandResult:
        return self.run_now(argv, timeout_s, stdin, cwd, env, max_output_bytes)

    def run_now(
        self,
        argv: Sequence[str],
        timeout_s: float = 60,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        max_output_bytes: int = 1 << 30,
    ) -> CommandResult:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or self.workspace,
            env={"PATH": os.environ["PATH"], "HOME": str(self.root / "home"), **(env or {})},
            start_new_session=True,
            user=self.user,
            group=self.user,
        )
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise SandboxTimeoutError("deadline") from error
        code = process.returncode
        return CommandResult(
            exit_code=code if code >= 0 else 128 - code,
            stdout=out[:max_output_bytes],
            stderr=err[:max_output_bytes],
            truncated=len(out) > max_output_bytes,
        )

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)
        Path(path).chmod(mode)

    async def read_file(self, path: str, *, max_bytes: int) -> bytes:
        return Path(path).read_bytes()[:max_bytes]


def snapshot(root: Path | bytes | str, *, ignore: Sequence[bytes] = (b".git",)) -> dict[bytes, tuple[str, bytes, bool]]:
    """Every file and symlink under a folder: kind, content or target, executable."""
    found: dict[bytes, tuple[str, bytes, bool]] = {}
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name not in ignore and name not in links]
        for name in [*files, *links]:
            if name in ignore:
                continue
            path = os.path.join(folder, name)
            state = os.lstat(path)
            key = os.path.relpath(path, base)
            if stat.S_ISLNK(state.st_mode):
                found[key] = ("link", os.readlink(path), False)
            elif stat.S_ISREG(state.st_mode):
                with open(path, "rb") as file:
                    found[key] = ("file", file.read(), bool(state.st_mode & 0o100))
    return found


@pytest.fixture
def sandbox(tmp_path: Path) -> FolderSandbox:
    return FolderSandbox(tmp_path / "sandbox")


@pytest.fixture
def workspace(sandbox: FolderSandbox) -> Path:
    return Path(sandbox.workspace)


@pytest.fixture
def make_sandbox(tmp_path: Path):
    return lambda name: FolderSandbox(tmp_path / name)


@pytest.fixture(name="snapshot")
def snapshot_fixture():
    return snapshot


@pytest.fixture
def mirror_dir(tmp_path: Path) -> Path:
    return tmp_path / "mirror.git"


class Run:
    """A repository as a run would use it, with the agent's hook at hand."""

    def __init__(self, repository, sandbox: FolderSandbox, tmp_path: Path) -> None:
        self.repository = repository
        self.sandbox = sandbox
        self.tmp_path = tmp_path
        self.part = 0

    def hook(self, call_id: str, **env: str) -> None:
        result = self.sandbox.run_now([*self.repository.hook_command, call_id], env=env)
        assert (result.exit_code, result.stdout, result.stderr) == (0, b"", b"")

    async def checkpoint(self, call_id: str | None = None, part: int | None = None):
        from datetime import UTC, datetime

        self.part = part or self.part + 1
        at = datetime.fromtimestamp(1_700_000_000 + self.part, UTC)
        return await self.repository.checkpoint(call_id=call_id, part=self.part, at=at)

    async def checked_out(self, commit: str, name: str | None = None) -> dict[bytes, tuple[str, bytes, bool]]:
        """The commit, out of repo.bundle."""
        from envoi_trace_core.analysis.replay import checkout_part

        bundle = self.tmp_path / "repo.bundle"
        await self.repository.bundle(bundle)
        destination = self.tmp_path / "checkouts" / (name or os.urandom(4).hex())
        checkout_part(bundle, commit, destination)
        return snapshot(destination, ignore=())


@pytest.fixture
def open_run(tmp_path: Path, mirror_dir: Path, sandbox: FolderSandbox):
    async def open_it(box: FolderSandbox | None = None, *, mirror: Path | None = None, begin: bool = True, **options):
        from datetime import UTC, datetime

        from envoi_trace_core.repo.repository import Repository

        box = box or sandbox
        repository = await Repository.open(mirror_dir=mirror or mirror_dir, sandbox=box, **options)
        if begin:
            await repository.begin(datetime.fromtimestamp(1_700_000_000, UTC))
        return Run(repository, box, tmp_path)

    return open_it
