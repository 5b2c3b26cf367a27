"""Faults of E2B's API and of envd, injected into the fake and met through the real SDK; nothing is left after any."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from e2b_fake.server import FakeE2b
from envoi_trace_e2b import calls
from envoi_trace_e2b.options import E2bOptions
from envoi_trace_e2b.plugin import E2B_SANDBOX

from envoi_trace_core.errors import EnvoiTraceError, SandboxError, SandboxLostError, UsageError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.specs import SandboxRequest

pytestmark = pytest.mark.slow

OPTIONS = E2bOptions(template="base")
CREATE = "POST /v2/sandboxes"


def request(name: str = "n1", **more: object) -> SandboxRequest:
    return SandboxRequest(
        name=name, **{"trajectory_id": "t1", "role": "agent", "lifetime_s": 600, "runs_model": True, **more}
    )


@pytest.fixture
async def sandbox(fake: FakeE2b) -> AsyncIterator[Sandbox]:
    made = await E2B_SANDBOX.create(request(), OPTIONS)
    yield made
    await made.close()
    assert fake.live() == []


async def until(condition: object, timeout_s: float = 30) -> None:
    with anyio.fail_after(timeout_s):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await anyio.sleep(0.01)


# -- the API ------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("status", [503, 429, 500, 502])
async def test_a_busy_api_is_asked_again(fake: FakeE2b, status: int) -> None:
    faults = [fake.fail(match, status=status, times=2) for match in ("GET /v2/sandboxes", CREATE)]
    sandbox = await E2B_SANDBOX.create(request(), OPTIONS)
    assert [fault.seen for fault in faults] == [2, 2]
    assert fake.live() == [sandbox.id]
    fault = fake.fail("DELETE", status=status, times=2)
    await sandbox.close()
    assert (fault.seen, fake.live()) == (2, [])


@pytest.mark.anyio
async def test_an_api_that_stays_busy_is_given_up(fake: FakeE2b, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 1.0)
    fake.fail(CREATE, status=503, times=10**6, message="no capacity")
    with pytest.raises(SandboxError, match="no capacity") as caught:
        await E2B_SANDBOX.create(request(), E2bOptions(template="base", wait_s=2))
    assert caught.value.retryable
    assert fake.live() == []


@pytest.mark.anyio
async def test_an_answer_that_was_lost_leaks_nothing(fake: FakeE2b) -> None:
    fault = fake.fail(CREATE, drop=True, after=True)
    sandbox = await E2B_SANDBOX.create(request(), OPTIONS)
    assert fault.seen == 1
    assert fake.state.created == 1
    assert fake.live() == [sandbox.id]
    await sandbox.close()
    assert fake.live() == []


@pytest.mark.anyio
async def test_a_create_that_is_given_up_leaks_nothing(fake: FakeE2b, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 1.0)
    fake.fail(CREATE, drop=True, after=True, times=10**6)
    with pytest.raises(SandboxError):
        await E2B_SANDBOX.create(request(), OPTIONS)
    assert fake.state.created == 1
    assert fake.live() == []


@pytest.mark.anyio
async def test_a_create_that_is_cancelled_halfway_leaks_nothing(fake: FakeE2b) -> None:
    fake.state.create_delay_s = 0.5
    with anyio.move_on_after(10) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(E2B_SANDBOX.create, request(), OPTIONS)
            await until(lambda: CREATE in fake.state.calls)
            tasks.cancel_scope.cancel()
    assert not scope.cancelled_caught
    await until(lambda: fake.state.created == 1)
    await until(lambda: fake.live() == [])


@pytest.mark.anyio
async def test_a_wrong_key_is_one_line(fake: FakeE2b, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", "e2b_wrong")
    with pytest.raises(UsageError) as caught:
        await E2B_SANDBOX.create(request(), OPTIONS)
    assert "E2B_API_KEY" in caught.value.message
    assert "\n" not in caught.value.message
    assert "e2b_wrong" not in caught.value.message
    assert "dashboard" in (caught.value.mend or "")
    assert len(fake.state.calls) == 1


@pytest.mark.anyio
async def test_a_missing_key_is_one_line(fake: FakeE2b, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_API_KEY")
    for ask in (lambda: E2B_SANDBOX.secrets(OPTIONS), lambda: anyio.run(E2B_SANDBOX.list_live, OPTIONS)):
        with pytest.raises(UsageError, match="E2B_API_KEY is not set") as caught:
            await anyio.to_thread.run_sync(ask)
        assert "export E2B_API_KEY=" in (caught.value.mend or "")
    assert fake.state.calls == []


def test_the_key_is_a_secret(fake: FakeE2b) -> None:
    assert E2B_SANDBOX.secrets(OPTIONS) == {"E2B_API_KEY": "e2b_fake"}


@pytest.mark.anyio
@pytest.mark.parametrize("accepts", [False, True])
async def test_an_unreachable_api_fails_within_30_s(
    fake: FakeE2b, monkeypatch: pytest.MonkeyPatch, accepts: bool
) -> None:
    """Refused connections, and connections on which nothing ever comes."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if accepts:
            silent.listen()
        monkeypatch.setenv("E2B_API_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(SandboxError, match="can't be reached") as caught:
            await E2B_SANDBOX.create(request(), OPTIONS)
        assert time.monotonic() - began < 30
    assert caught.value.retryable


@pytest.mark.anyio
async def test_an_api_that_comes_back_is_waited_for(fake: FakeE2b) -> None:
    fake.go("api")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(E2B_SANDBOX.create, request(), OPTIONS)
        await anyio.sleep(2)
        fake.come("api")
    (sandbox_id,) = fake.live()
    sandbox = await E2B_SANDBOX.attach(sandbox_id, OPTIONS)
    fake.go("api")
    assert (await sandbox.run(["echo", "on"], timeout_s=20)).stdout == b"on\n"  # envd needs no API
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.close)
        await anyio.sleep(1)
        fake.come("api")
    assert fake.live() == []


# -- envd ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_envd_that_has_too_much_to_do_is_asked_again(fake: FakeE2b, sandbox: Sandbox) -> None:
    faults = [
        fake.fail(match, status=429, times=2)
        for match in ("/process.Process/Start", "/process.Process/SendInput", "POST /files", "GET /files")
    ]
    await sandbox.write_file("/workspace/x", b"\xff")
    assert (await sandbox.run(["cat"], stdin=b"fed", timeout_s=30)).stdout == b"fed"
    assert await sandbox.read_file("/workspace/x", max_bytes=10) == b"\xff"
    assert [fault.seen for fault in faults] == [2, 2, 2, 2]


@pytest.mark.anyio
async def test_envd_that_stays_overloaded_is_given_up(
    fake: FakeE2b, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 0.5)
    fault = fake.fail("/process.Process/Start", status=429, times=10**6)
    with pytest.raises(SandboxLostError) as caught:
        await sandbox.run(["true"], timeout_s=30)
    assert caught.value.retryable
    fault.times = 0


@pytest.mark.anyio
async def test_a_dropped_upload_is_sent_again(fake: FakeE2b, sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 20_000
    fault = fake.fail("POST /files", drop=True, times=2)
    await sandbox.write_file("/workspace/big", data)
    assert fault.seen == 2
    assert await sandbox.read_file("/workspace/big", max_bytes=len(data)) == data
    left = await sandbox.run(["ls", "-A"], timeout_s=20)
    assert left.stdout == b"big\n"


@pytest.mark.anyio
async def test_a_dropped_download_is_asked_for_again(fake: FakeE2b, sandbox: Sandbox) -> None:
    await sandbox.write_file("/workspace/x", b"12345")
    fault = fake.fail("GET /files", drop=True, times=2)
    assert await sandbox.read_file("/workspace/x", max_bytes=5) == b"12345"
    assert fault.seen == 2


@pytest.mark.anyio
async def test_envd_that_vanishes_breaks_what_runs_and_nothing_else(fake: FakeE2b, sandbox: Sandbox) -> None:
    handle = await sandbox.spawn(["sleep", "1000"])
    broken: list[EnvoiTraceError] = []

    async def sleep() -> None:
        try:
            await sandbox.run(["sleep", "1000"], timeout_s=500)
        except EnvoiTraceError as error:
            broken.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleep)
        await until(lambda: len(fake.state.sandboxes[sandbox.id].processes) > 1)
        await anyio.sleep(0.3)
        fake.go("envd")
        await anyio.sleep(0.5)
        fake.come("envd")
    assert isinstance(broken[0], SandboxLostError)
    assert await sandbox.is_alive(handle)


@pytest.mark.anyio
async def test_a_command_waits_for_envd_to_come_back(fake: FakeE2b, sandbox: Sandbox) -> None:
    fake.go("envd")
    results: list[bytes] = []

    async def run() -> None:
        results.append((await sandbox.run(["echo", "back"], timeout_s=60)).stdout)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.sleep(8)  # the SDK itself would wait for less
        fake.come("envd")
    assert results == [b"back\n"]


@pytest.mark.anyio
async def test_a_stream_that_is_left_early_passes_on_what_left_it(sandbox: Sandbox) -> None:
    async def lines() -> AsyncIterator[bytes]:
        async with sandbox.stream(["sh", "-c", "while :; do echo x; sleep 0.05; done"]) as stream:
            while chunk := await stream.read():
                yield chunk

    async with aclosing(lines()) as read:
        async for chunk in read:
            assert chunk.startswith(b"x")
            break


@pytest.mark.anyio
async def test_no_command_has_a_deadline_that_is_not_ours(fake: FakeE2b, sandbox: Sandbox) -> None:
    """The SDK's default would kill an agent after 60 s, and only its first process."""
    await sandbox.run(["true"], timeout_s=5)
    async with sandbox.stream(["cat"]) as stream:
        await stream.close_stdin()
        await stream.wait()
    await sandbox.spawn(["sleep", "1"])
    assert len(fake.state.deadlines_ms) >= 5
    assert set(fake.state.deadlines_ms) == {None}


# -- life ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_end_of_its_life_is_a_loss(fake: FakeE2b, sandbox: Sandbox) -> None:
    async with sandbox.stream(["cat"]) as stream:
        fake.end(sandbox.id)
        with pytest.raises(SandboxLostError, match="has ended"):
            await stream.read()
    assert fake.state.sandboxes[sandbox.id].state == "paused"
    with pytest.raises(SandboxLostError):
        await sandbox.run(["true"], timeout_s=20)


@pytest.mark.anyio
async def test_a_paused_one_goes_on_by_name_and_by_id(fake: FakeE2b, sandbox: Sandbox) -> None:
    script = "n=0; while :; do n=$((n + 1)); echo $n >count; sleep 0.05; done"
    handle = await sandbox.spawn(["sh", "-c", script], cwd="/workspace")
    for find in (lambda: E2B_SANDBOX.create(request(), OPTIONS), lambda: E2B_SANDBOX.attach(sandbox.id, OPTIONS)):
        fake.pause(sandbox.id)
        again = await find()
        assert again.id == sandbox.id
        assert await again.is_alive(handle)
        before = int(await again.read_file("/workspace/count", max_bytes=20) or b"0")
        with anyio.fail_after(20):
            while int(await again.read_file("/workspace/count", max_bytes=20) or b"0") <= before:  # noqa: ASYNC110
                await anyio.sleep(0.05)
    assert fake.live() == [sandbox.id]


@pytest.mark.anyio
async def test_no_sandbox_is_asked_to_live_longer_than_the_plan_allows(fake: FakeE2b) -> None:
    sandbox = await E2B_SANDBOX.create(request(lifetime_s=10 * 3600), OPTIONS)  # else the fake refuses it
    made = fake.state.sandboxes[sandbox.id]
    assert sandbox.ends_at is not None
    assert 0 <= (made.end_at - sandbox.ends_at).total_seconds() < 10
    await sandbox.keep_alive(10 * 3600)
    await sandbox.keep_alive(60)
    assert 0 < (made.end_at - made.started_at).total_seconds() < 120
    await sandbox.close()
    assert E2B_SANDBOX.max_lifetime_s(OPTIONS) == 3600
    assert E2B_SANDBOX.max_lifetime_s(E2bOptions(plan="pro")) == 86400
    assert E2B_SANDBOX.max_lifetime_s(E2bOptions(max_lifetime_s=5)) == 5


@pytest.mark.anyio
async def test_on_timeout_kill_leaves_nothing(fake: FakeE2b) -> None:
    sandbox = await E2B_SANDBOX.create(request(), E2bOptions(template="base", on_timeout="kill"))
    fake.end(sandbox.id)
    assert fake.live() == []
    with pytest.raises(SandboxLostError):
        await E2B_SANDBOX.attach(sandbox.id, OPTIONS)


@pytest.mark.anyio
async def test_sandboxes_of_others_are_left_alone(fake: FakeE2b, sandbox: Sandbox) -> None:
    from e2b import AsyncSandbox

    other = await AsyncSandbox.create()
    assert [info.id for info in await E2B_SANDBOX.list_live(OPTIONS)] == [sandbox.id]
    with pytest.raises(SandboxLostError, match="none of envoi-trace"):
        await E2B_SANDBOX.attach(other.sandbox_id, OPTIONS)
    await other.kill()


def test_help_imports_no_sdk(tmp_path: Path) -> None:
    script = (
        "import sys; from envoi_trace_core.plugins import Plugins; Plugins.load().sandbox('e2b'); "
        "import envoi_trace_e2b.plugin as p; p.E2B_SANDBOX.max_lifetime_s(p.E2bOptions()); "
        "assert not {'e2b', 'httpx', 'connectrpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
