"""Faults of Modal's control plane and router, injected into the fake and met through the real SDK; none leaks."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import attrs
import modal
import pytest
from envoi_trace_modal.sandbox import calls
from envoi_trace_modal.sandbox.options import ModalOptions
from envoi_trace_modal.sandbox.spec import MODAL_SANDBOX
from grpclib import GRPCError, Status
from modal_fake.server import FakeModal
from modal_proto import api_pb2 as api

from envoi_trace_core.errors import SandboxError, SandboxLostError, UsageError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.specs import Requirements, SandboxRequest

pytestmark = pytest.mark.slow
OPTIONS = ModalOptions()
CREATE = "SandboxCreateV2"
MANY = 10**4


def request(name: str = "n1", **more: object) -> SandboxRequest:
    return SandboxRequest(
        name=name, **{"trajectory_id": "t1", "role": "agent", "lifetime_s": 600, "runs_model": True, **more}
    )


@pytest.fixture
async def sandbox(fake: FakeModal) -> AsyncIterator[Sandbox]:
    made = await MODAL_SANDBOX.create(request(), OPTIONS)
    yield made
    await made.close()
    assert fake.live() == []


async def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - the fake is in another thread
            await anyio.sleep(0.01)


# -- the control plane --------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("status", [Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.INTERNAL])
async def test_what_may_pass_is_tried_again(fake: FakeModal, status: Status) -> None:
    for rpc in ("AppGetOrCreate", CREATE, "SandboxTerminateV2"):
        fake.fail(rpc, status, times=5)
    sandbox = await MODAL_SANDBOX.create(request(), OPTIONS)
    assert fake.live() == [sandbox.id]
    await sandbox.close()
    assert (fake.live(), len(fake.state.sandboxes)) == ([], 1)
    assert not any(fake.state.faults.values())


@pytest.mark.anyio
async def test_a_modal_that_stays_busy_is_waited_for_and_given_up(fake: FakeModal, monkeypatch) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 0.5)
    monkeypatch.setattr(calls, "MAX_PAUSE_S", 0.2)
    monkeypatch.setattr("envoi_trace_modal.sandbox.creating.CREATE_S", 0.5)
    monkeypatch.setattr(calls, "BUSY_PAUSE_S", 0.3)
    fake.fail(CREATE, Status.RESOURCE_EXHAUSTED, "workspace limit", times=MANY)
    told: list[str] = []
    began = time.monotonic()
    with pytest.raises(SandboxError, match="workspace limit") as caught:
        await MODAL_SANDBOX.create(request(report=told.append), ModalOptions(busy_wait=2))
    assert 1 < time.monotonic() - began < 20
    assert caught.value.retryable
    assert "cleanup" in (caught.value.mend or "")
    assert len([line for line in told if "patience" in line]) == 1
    assert fake.live() == []


@pytest.mark.anyio
async def test_an_answer_that_was_lost_leaks_nothing(fake: FakeModal) -> None:
    fake.state.lost_answers[CREATE] = 1
    sandbox = await MODAL_SANDBOX.create(request(), OPTIONS)
    assert (fake.live(), len(fake.state.sandboxes)) == ([sandbox.id], 1)
    await sandbox.close()
    assert fake.live() == []


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["delays_s", "late_s"])
async def test_a_create_that_is_cancelled_halfway_leaks_nothing(fake: FakeModal, where: str) -> None:
    """Before Modal made the sandbox, and after, while the answer is on its way."""
    getattr(fake.state, where)[CREATE] = 1.0
    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(MODAL_SANDBOX.create, request(), OPTIONS)
            await until(lambda: CREATE in fake.state.calls)
            tasks.cancel_scope.cancel()
    assert len(fake.state.sandboxes) == 1
    assert fake.live() == []


@pytest.mark.anyio
async def test_a_wrong_token_is_one_line(fake: FakeModal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-wrong")
    with pytest.raises(UsageError) as caught:
        await MODAL_SANDBOX.create(request(), OPTIONS)
    assert "\n" not in caught.value.message
    assert "as-wrong" not in caught.value.message
    assert caught.value.mend == "modal setup"
    assert fake.live() == []


def test_a_missing_token_is_one_line(fake: FakeModal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MODAL_SANDBOX.secrets(OPTIONS) == {"MODAL_TOKEN_SECRET": fake.state.token[1]}
    monkeypatch.delenv("MODAL_TOKEN_SECRET")
    with pytest.raises(UsageError, match="needs a token") as caught:
        MODAL_SANDBOX.secrets(OPTIONS)
    assert caught.value.mend == "modal setup"
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    assert MODAL_SANDBOX.secrets(OPTIONS) == {}


def test_an_orchestrator_elsewhere_gets_the_token_and_the_server(fake: FakeModal) -> None:
    assert MODAL_SANDBOX.carried is not None
    carried = MODAL_SANDBOX.carried(OPTIONS)
    assert carried.variables == {name: value for name, value in fake.environ.items() if name != "MODAL_CONFIG_PATH"}


@pytest.mark.anyio
async def test_a_throttle_that_names_its_time_is_bounded_too(fake: FakeModal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits for it by itself, for ever unless it is told how long."""
    assert calls.THROTTLE_S < calls.PATIENCE_S
    await MODAL_SANDBOX.list_live(OPTIONS)
    assert os.environ["MODAL_MAX_THROTTLE_WAIT"] == str(calls.THROTTLE_S)
    monkeypatch.setenv("MODAL_MAX_THROTTLE_WAIT", "2")
    policy = api.RPCRetryPolicy(retry_after_secs=0.5)
    fake.state.faults[CREATE] = [GRPCError(Status.RESOURCE_EXHAUSTED, "slow down", [policy])] * MANY
    monkeypatch.setattr("envoi_trace_modal.sandbox.creating.CREATE_S", 3.0)
    with anyio.fail_after(60), pytest.raises(SandboxError, match="slow down"):
        await MODAL_SANDBOX.create(request(), ModalOptions(busy_wait=3))
    fake.state.faults[CREATE] = [GRPCError(Status.RESOURCE_EXHAUSTED, "slow down", [policy])]
    await (await MODAL_SANDBOX.create(request(), OPTIONS)).close()
    assert fake.live() == []


@pytest.mark.anyio
async def test_a_proxy_that_can_not_be_used_is_one_line_without_its_password(
    fake: FakeModal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("python_socks") is not None:
        pytest.skip("python-socks is there")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(UsageError, match="proxy") as caught:
        await MODAL_SANDBOX.create(request(), OPTIONS)
    assert "hunter2" not in caught.value.message
    assert "api-proxy-support" in (caught.value.mend or "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert await MODAL_SANDBOX.list_live(OPTIONS) == []


@pytest.mark.anyio
async def test_a_modal_that_is_not_there_fails_within_30_s(fake: FakeModal, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the connection and says nothing, the worst of them."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MODAL_SERVER_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        modal.Client._set_env_client(None)
        began = time.monotonic()
        with pytest.raises(SandboxError, match="can't be reached") as caught:
            await MODAL_SANDBOX.create(request(), OPTIONS)
        assert time.monotonic() - began < 30
        assert caught.value.retryable


@pytest.mark.anyio
async def test_an_image_that_can_not_be_built_says_so(fake: FakeModal, tmp_path: Path) -> None:
    wanted = request(requirements=Requirements(commands=("true",)))
    fake.fail("ImageGetOrCreate", Status.INVALID_ARGUMENT, "bad image")
    with pytest.raises(UsageError, match=r"could not be built.*bad image"):
        await MODAL_SANDBOX.create(wanted, OPTIONS)
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM python:3.12-slim\nRUN false")
    with pytest.raises(SandboxError, match=r"Dockerfile\) could not be built") as caught:
        await MODAL_SANDBOX.create(attrs.evolve(wanted, dockerfile=dockerfile), OPTIONS)
    assert "\n" not in caught.value.message
    assert fake.live() == []


@pytest.mark.anyio
async def test_layers_are_shared_by_agents(fake: FakeModal) -> None:
    """Only what the second agent requires is built anew."""
    for number, packages in enumerate((("first-agent",), ("second-agent",))):
        before = len(fake.state.built)
        sandbox = await MODAL_SANDBOX.create(request(f"n{number}", requirements=Requirements(pip=packages)), OPTIONS)
        await sandbox.close()
        built = [line for line in fake.state.built[before:] if line.startswith("RUN")]
        assert any(packages[0] in line for line in built)
        assert any("uv venv" in line for line in built) == (number == 0)


@pytest.mark.anyio
async def test_what_was_asked_for_is_what_modal_is_asked_for(fake: FakeModal) -> None:
    fake.state.secrets["st-mine"] = {"FROM_SECRET": "yes"}
    options = ModalOptions(cpu=1.5, memory_mib=512, idle_timeout=100, secrets=("mine",), region=("eu-west",))
    sandbox = await MODAL_SANDBOX.create(request(name="x" * 200, lifetime_s=10**6), options)
    definition = fake.state.sandboxes[sandbox.id].definition
    assert (definition.resources.milli_cpu, definition.resources.memory_mb) == (1500, 512)
    assert (definition.timeout_secs, definition.idle_timeout_secs) == (24 * 3600, 100)
    assert len(definition.name) < 64
    assert (await sandbox.run(["sh", "-c", "printf $FROM_SECRET"], timeout_s=30)).stdout == b"yes"
    assert sandbox.ends_at is not None
    assert abs(sandbox.ends_at.timestamp() - time.time() - 24 * 3600) < 120
    attached = await MODAL_SANDBOX.attach(sandbox.id, options)
    assert attached.ends_at == sandbox.ends_at
    await sandbox.close()
    assert MODAL_SANDBOX.max_lifetime_s(ModalOptions(timeout=60)) == 60


# -- the sandbox and its router -----------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_sandbox_that_ends_while_a_command_runs_is_lost(fake: FakeModal, sandbox: Sandbox) -> None:
    async def end() -> None:
        await until(lambda: len(fake.state.sandboxes[sandbox.id].box.processes) >= 2)
        await anyio.to_thread.run_sync(fake.end, sandbox.id)

    async def run() -> None:
        with pytest.raises(SandboxLostError):
            await sandbox.run(["sleep", "100"], timeout_s=60)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        tasks.start_soon(run)
    with pytest.raises(SandboxLostError):
        await MODAL_SANDBOX.attach(sandbox.id, OPTIONS)


@pytest.mark.anyio
async def test_a_router_that_stays_away_is_a_lost_sandbox(fake: FakeModal, sandbox: Sandbox) -> None:
    await anyio.to_thread.run_sync(fake.go, "router")
    began = time.monotonic()
    with pytest.raises(SandboxLostError) as caught:
        await sandbox.run(["true"], timeout_s=200)
    assert caught.value.retryable
    assert time.monotonic() - began < 120


@pytest.mark.anyio
async def test_a_router_that_comes_back_costs_nothing(fake: FakeModal, sandbox: Sandbox) -> None:
    async def blink() -> None:
        await until(lambda: len(fake.state.sandboxes[sandbox.id].box.processes) >= 2)
        await anyio.to_thread.run_sync(fake.go, "router")
        await anyio.to_thread.run_sync(fake.come, "router")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(blink)
        done = await sandbox.run(["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.5; done"], timeout_s=60)
    assert done.stdout == b"1\n2\n3\n"


@pytest.mark.anyio
async def test_a_command_line_above_modals_bound_works(fake: FakeModal, sandbox: Sandbox) -> None:
    words = [f"it's {number} \\ \n" + "x" * 1000 for number in range(100)]
    done = await sandbox.run(["printf", "%s|", *words], timeout_s=60)
    assert done.stdout.decode() == "".join(f"{word}|" for word in words)
    async with sandbox.stream(["sh", "-c", "cat; printf '%s' \"$2\"", "sh", *words]) as stream:
        await stream.close_stdin()
        got = b""
        while piece := await stream.read():
            got += piece
    assert got.decode() == words[1]
    assert (await sandbox.run(["ls", sandbox.support_dir], timeout_s=30)).stdout == b""


_MEASURE = """
import resource, sys, anyio
from envoi_trace_modal.sandbox.options import ModalOptions
from envoi_trace_modal.sandbox.spec import MODAL_SANDBOX

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

async def main():
    sandbox = await MODAL_SANDBOX.attach(sys.argv[1], ModalOptions())
    size = int(sys.argv[2]) << 20
    before = peak_mb()
    if sys.argv[3] == "read":
        data = await sandbox.read_file("/tmp/big", max_bytes=size)
    else:
        data = b"x" * size
        await sandbox.write_file("/tmp/copy", data)
    assert len(data) == size
    print(peak_mb() - before)

anyio.run(main)
"""


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units there")
@pytest.mark.parametrize("way", ["read", "write"])
async def test_a_large_file_is_not_held_twice(fake: FakeModal, sandbox: Sandbox, way: str) -> None:
    size_mb = 150
    made = await sandbox.run(["sh", "-c", f"head -c {size_mb << 20} /dev/zero >/tmp/big"], timeout_s=60)
    assert made.exit_code == 0
    done = await anyio.run_process([sys.executable, "-c", _MEASURE, sandbox.id, str(size_mb), way])
    assert float(done.stdout) < 1.6 * size_mb
