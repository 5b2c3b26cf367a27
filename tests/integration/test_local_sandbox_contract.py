"""The contract kit on the local sandbox; the oracle is the host's process table and file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.testing.sandbox_contract import SandboxContract


class HostOracle:
    def __init__(self, root: Path) -> None:
        self.root = root

    async def exists(self, sandbox_id: str) -> bool:
        left = [path.name for path in self.root.iterdir() if path.name != ".lock"]
        return bool(left) or await self.count_processes(sandbox_id) > 0

    async def count_processes(self, marker: str) -> int:
        return len(host_processes(marker))


def host_processes(marker: str) -> list[int]:
    """Living processes with that word among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(entry.name))
    return found


class LocalContract(SandboxContract):
    spec_path = "envoi_trace_core.builtin.local_sandbox.spec:LOCAL_SANDBOX"

    @pytest.fixture
    def oracle(self, tmp_path: Path) -> HostOracle:
        return HostOracle(tmp_path / "sandboxes")


class TestIsolated(LocalContract):
    @pytest.fixture
    def options(self, tmp_path: Path) -> LocalSandboxOptions:
        return LocalSandboxOptions(isolation="bwrap", root=str(tmp_path / "sandboxes"))


class TestWithoutIsolation(LocalContract):
    @pytest.fixture
    def options(self, tmp_path: Path) -> LocalSandboxOptions:
        return LocalSandboxOptions(isolation="none", root=str(tmp_path / "sandboxes"))
