"""What the contract's tests of sandboxes work with: the spec under test, an oracle, and waits that end."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, ClassVar, Protocol

import anyio
import pytest

from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.specs import SandboxRequest, SandboxSpec


class SandboxOracle(Protocol):
    """Looks at the backend another way than through the sandbox under test."""

    async def exists(self, sandbox_id: str) -> bool:
        """Whether the backend still holds anything of that sandbox: a machine, a folder, a process."""
        ...

    async def count_processes(self, marker: str) -> int:
        """How many processes run whose command line holds the marker, in any sandbox."""
        ...


class SandboxKit:
    """What an author supplies, and what the tests are written with."""

    spec_path: ClassVar[str]
    """`module:NAME` of the `SandboxSpec`; importable from another process too."""
    timeout_s: ClassVar[float] = 60.0
    """How long a command that should take no time may take on this backend."""
    settle_s: ClassVar[float] = 10.0
    """How long the backend may take until the oracle sees that something ended."""
    attaches_from_another_process: ClassVar[bool] = True
    creates_idempotently: ClassVar[bool] = True
    lists_live: ClassVar[bool] = True

    @pytest.fixture
    def options(self) -> Any:
        """The options for the sandboxes; override."""
        return self.spec.options()

    @pytest.fixture
    def oracle(self) -> SandboxOracle:
        """Override."""
        raise NotImplementedError

    @property
    def spec(self) -> SandboxSpec[Any]:
        """The spec under test."""
        module, _, name = self.spec_path.partition(":")
        found: SandboxSpec[Any] = getattr(importlib.import_module(module), name)
        return found

    def make_request(self, name: str | None = None) -> SandboxRequest:
        """A request for a sandbox of a name that no other has."""
        return SandboxRequest(
            name=name or f"contract-{uuid.uuid4().hex[:12]}",
            trajectory_id="contract",
            role="agent",
            lifetime_s=600,
            runs_model=True,
        )

    @pytest.fixture
    async def sandbox(self, options: Any) -> AsyncGenerator[Sandbox]:
        """A fresh sandbox, closed at the end."""
        sandbox = await self.spec.create(self.make_request(), options)
        try:
            yield sandbox
        finally:
            await sandbox.close()

    @pytest.fixture
    def marker(self) -> str:
        """A number of seconds for `sleep` that names the process to the oracle."""
        return f"8{uuid.uuid4().int % 10**11}"

    async def sh(self, sandbox: Sandbox, script: str, **more: Any) -> Any:
        """Run a shell script."""
        return await sandbox.run(["sh", "-c", script], **{"timeout_s": self.timeout_s, **more})

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition, for as long as the backend may take."""
        with anyio.fail_after(self.settle_s):
            while not await condition():  # noqa: ASYNC110 - what it looks at is elsewhere
                await anyio.sleep(0.02)

    async def until_gone(self, oracle: SandboxOracle, marker: str) -> None:
        """Wait until no process with that marker runs."""

        async def gone() -> bool:
            return await oracle.count_processes(marker) == 0

        await self.until(gone)

    async def until_running(self, oracle: SandboxOracle, marker: str, count: int = 1) -> None:
        """Wait until so many processes with that marker run."""

        async def running() -> bool:
            return await oracle.count_processes(marker) >= count

        await self.until(running)
