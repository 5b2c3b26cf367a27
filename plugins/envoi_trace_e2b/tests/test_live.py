"""On the real E2B: what the fake only assumes. Costs a few cents; runs only when it is asked for.

ENVOI_TRACE_E2B_LIVE=1 E2B_API_KEY=... pytest plugins/envoi_trace_e2b/tests/test_live.py

Every test closes what it makes; `envoi-trace cleanup --sandbox e2b` shows what a failure left.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import anyio
import pytest
from envoi_trace_e2b.options import E2bOptions
from envoi_trace_e2b.plugin import E2B_SANDBOX

from envoi_trace_core.errors import SandboxLostError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.sandboxing.bootstrap import harness_python
from envoi_trace_core.specs import SandboxRequest
from envoi_trace_core.testing.sandbox_contract import SandboxContract

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (os.environ.get("ENVOI_TRACE_E2B_LIVE") and os.environ.get("E2B_API_KEY")),
        reason="set ENVOI_TRACE_E2B_LIVE=1 and E2B_API_KEY",
    ),
]


class LiveOracle:
    """E2B's own listing, and the process table of every sandbox of ours."""

    async def exists(self, sandbox_id: str) -> bool:
        return sandbox_id in {info.id for info in await E2B_SANDBOX.list_live(E2bOptions())}

    async def count_processes(self, marker: str) -> int:
        total = 0
        for info in await E2B_SANDBOX.list_live(E2bOptions()):
            try:
                sandbox = await E2B_SANDBOX.attach(info.id, E2bOptions())
                found = await sandbox.run(["pgrep", "-xfc", f"sleep {marker}"], timeout_s=30)
            except SandboxLostError:
                continue
            total += int(found.stdout or b"0")
        return total


class TestLiveContract(SandboxContract):
    spec_path = "envoi_trace_e2b.plugin:E2B_SANDBOX"
    timeout_s = 120
    settle_s = 60

    @pytest.fixture
    def options(self) -> E2bOptions:
        return E2bOptions()

    @pytest.fixture
    def oracle(self) -> LiveOracle:
        return LiveOracle()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    name = f"live-{uuid.uuid4().hex[:12]}"
    request = SandboxRequest(name=name, trajectory_id=name, role="agent", lifetime_s=900, runs_model=True)
    made = await E2B_SANDBOX.create(request, E2bOptions())
    yield made
    await made.close()


@pytest.mark.anyio
async def test_the_template_has_what_the_recipe_promises(sandbox: Sandbox) -> None:
    reports: list[str] = []
    assert await harness_python(sandbox, report=reports.append) == sandbox.python
    assert reports == []
    assert (await sandbox.run(["git", "--version"], timeout_s=60)).exit_code == 0


@pytest.mark.anyio
async def test_a_pause_keeps_processes_and_the_token(sandbox: Sandbox) -> None:
    from e2b import AsyncSandbox

    handle = await sandbox.spawn(["sleep", "1000"])
    await AsyncSandbox.pause(sandbox.id)
    with pytest.raises(SandboxLostError):
        await sandbox.run(["true"], timeout_s=60)
    again = await E2B_SANDBOX.attach(sandbox.id, E2bOptions())
    assert await again.is_alive(handle)
    assert (await sandbox.run(["echo", "on"], timeout_s=60)).stdout == b"on\n"  # the object of before works too


@pytest.mark.anyio
async def test_a_command_outlives_the_default_of_the_sdk(sandbox: Sandbox) -> None:
    done = await sandbox.run(["sh", "-c", "sleep 75; echo done"], timeout_s=120)
    assert done.stdout == b"done\n"


@pytest.mark.anyio
async def test_the_plan_bounds_the_life(sandbox: Sandbox) -> None:
    await sandbox.keep_alive(10 * 86400)
    with anyio.fail_after(60):
        assert (await sandbox.run(["true"], timeout_s=60)).exit_code == 0
