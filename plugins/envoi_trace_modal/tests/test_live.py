"""The real Modal: the contract, and what the fake only assumes. Skipped without a token; costs a few cents.

    ENVOI_TRACE_LIVE_MODAL=1 pytest plugins/envoi_trace_modal/tests/test_live.py

The token is the one of `modal setup`, or of MODAL_TOKEN_ID and MODAL_TOKEN_SECRET. `envoi-trace cleanup --sandbox
modal --sandbox-opt app=envoi-trace-live` ends what a test that was killed left.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import attrs
import pytest
from envoi_trace_modal.sandbox.options import ModalOptions
from envoi_trace_modal.sandbox.recipe import HARNESS_PYTHON
from envoi_trace_modal.sandbox.spec import MODAL_SANDBOX

from envoi_trace_core.errors import SandboxLostError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.specs import SandboxRequest
from envoi_trace_core.testing.sandbox_contract import SandboxContract

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.environ.get("ENVOI_TRACE_LIVE_MODAL") != "1", reason="ENVOI_TRACE_LIVE_MODAL=1 asks for it"),
]
OPTIONS = ModalOptions(app="envoi-trace-live", cpu=0.5, memory_mib=512)


class LiveOracle:
    """Modal's own listing, and a second connection for the processes."""

    async def exists(self, sandbox_id: str) -> bool:
        return sandbox_id in {info.id for info in await MODAL_SANDBOX.list_live(OPTIONS)}

    async def count_processes(self, marker: str) -> int:
        count = 0
        for info in await MODAL_SANDBOX.list_live(OPTIONS):
            try:
                sandbox = await MODAL_SANDBOX.attach(info.id, OPTIONS)
                script = 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\0" "\\n" | grep -cx -- "$1"'
                found = await sandbox.run(["sh", "-c", script, "sh", marker], timeout_s=60, cwd="/")
            except SandboxLostError:
                continue
            count += max(0, int(found.stdout or b"0") - 1)  # the question itself holds the word
        return count


class TestLiveModal(SandboxContract):
    spec_path = "envoi_trace_modal.sandbox.spec:MODAL_SANDBOX"
    settle_s = 60.0

    @pytest.fixture
    def options(self) -> ModalOptions:
        return OPTIONS

    @pytest.fixture
    def oracle(self) -> LiveOracle:
        return LiveOracle()


def request(name: str, **more: object) -> SandboxRequest:
    name = f"{name}-{time.time_ns()}"
    return SandboxRequest(
        name=name, **{"trajectory_id": "live", "role": "agent", "lifetime_s": 600, "runs_model": True, **more}
    )


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = await MODAL_SANDBOX.create(request("live"), OPTIONS)
    yield made
    await made.close()


@pytest.mark.anyio
async def test_the_images_python_has_the_harness(sandbox: Sandbox) -> None:
    """The recipe is only text to the fake."""
    assert sandbox.python == HARNESS_PYTHON
    assert (await sandbox.run([HARNESS_PYTHON, "-c", "import envoi"], timeout_s=120)).exit_code == 0


@pytest.mark.anyio
async def test_a_dockerfile_is_built_with_its_context(tmp_path: Path) -> None:
    """Without a Python in it, and with a file of its folder."""
    (tmp_path / "note").write_text("from the context")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM ubuntu:24.04\nCOPY note /note\nRUN echo built >/built\n")
    made = await MODAL_SANDBOX.create(request("dockerfile", dockerfile=dockerfile), OPTIONS)
    try:
        assert (await made.run(["cat", "/note", "/built"], timeout_s=120)).stdout == b"from the contextbuilt\n"
        assert (await made.run([HARNESS_PYTHON, "-c", "import envoi"], timeout_s=120)).exit_code == 0
    finally:
        await made.close()


@pytest.mark.anyio
async def test_the_end_of_a_life_is_a_lost_sandbox() -> None:
    """In a command that runs, and for whoever attaches."""
    made = await MODAL_SANDBOX.create(request("short"), attrs.evolve(OPTIONS, timeout=30.0))
    with anyio.fail_after(180), pytest.raises(SandboxLostError):
        await made.run(["sleep", "170"], timeout_s=170)
    with pytest.raises(SandboxLostError):
        await MODAL_SANDBOX.attach(made.id, OPTIONS)


@pytest.mark.anyio
async def test_much_goes_both_ways_and_a_long_command_line_works(sandbox: Sandbox) -> None:
    data = os.urandom(1 << 20) * 100
    await sandbox.write_file("/tmp/much", data)
    assert await sandbox.read_file("/tmp/much", max_bytes=len(data)) == data
    words = ["x" * 1000] * 100
    assert len((await sandbox.run(["echo", *words], timeout_s=120)).stdout) == 100 * 1001


@pytest.mark.anyio
async def test_a_create_that_is_cancelled_leaves_nothing() -> None:
    wanted = request("cancelled", trajectory_id="live-cancelled")
    with anyio.move_on_after(0.5):
        await MODAL_SANDBOX.create(wanted, OPTIONS)
    assert "live-cancelled" not in {info.trajectory_id for info in await MODAL_SANDBOX.list_live(OPTIONS)}
