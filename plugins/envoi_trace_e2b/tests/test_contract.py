"""The contract kit on E2B's real SDK and the fake; the oracle is the fake's own books and the host's process table."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2b_fake.server import FakeE2b
from envoi_trace_e2b.options import E2bOptions

from envoi_trace_core.testing.sandbox_contract import SandboxContract


class FakeOracle:
    def __init__(self, fake: FakeE2b) -> None:
        self.fake = fake

    async def exists(self, sandbox_id: str) -> bool:
        return sandbox_id in self.fake.live()

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


class TestE2b(SandboxContract):
    spec_path = "envoi_trace_e2b.plugin:E2B_SANDBOX"

    @pytest.fixture
    def options(self, fake: FakeE2b) -> E2bOptions:
        return E2bOptions()

    @pytest.fixture
    def oracle(self, fake: FakeE2b) -> FakeOracle:
        return FakeOracle(fake)
