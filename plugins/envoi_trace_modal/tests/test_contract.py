"""The contract kit on Modal's real SDK and the fake; the oracle is the fake's books and the process table."""

from __future__ import annotations

from pathlib import Path

import pytest
from envoi_trace_modal.sandbox.options import ModalOptions
from modal_fake.server import FakeModal

from envoi_trace_core.testing.sandbox_contract import SandboxContract


class FakeOracle:
    def __init__(self, fake: FakeModal) -> None:
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


class TestModal(SandboxContract):
    spec_path = "envoi_trace_modal.sandbox.spec:MODAL_SANDBOX"

    @pytest.fixture
    def options(self, fake: FakeModal) -> ModalOptions:
        return ModalOptions()

    @pytest.fixture
    def oracle(self, fake: FakeModal) -> FakeOracle:
        return FakeOracle(fake)
