"""Limits of the account: waited for, bounded and told; runs that need two sandboxes don't block each other for ever."""

from __future__ import annotations

import anyio
import pytest
from e2b_fake.server import FakeE2b
from envoi_trace_e2b import capacity
from envoi_trace_e2b.options import E2bOptions
from envoi_trace_e2b.plugin import E2B_SANDBOX

from envoi_trace_core.errors import SandboxError
from envoi_trace_core.specs import SandboxRequest

OPTIONS = E2bOptions(template="base", wait_s=60)


def request(trajectory: str, role: str = "agent", **more: object) -> SandboxRequest:
    given = {"trajectory_id": trajectory, "lifetime_s": 600, "runs_model": True}
    return SandboxRequest(name=f"{trajectory}-{role}", role=role, **{**given, **more})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same waiting, ten times as fast."""
    for name in ("FIRST_S", "OTHERS_S", "HOLD_S"):
        monkeypatch.setattr(capacity, name, getattr(capacity, name) / 10)


async def run_one(trajectory: str, finished: list[str], companions: int) -> None:
    """What a run does: its own sandbox, then one for the tests, work in both, and the end."""
    agent = await E2B_SANDBOX.create(request(trajectory, companions=companions), OPTIONS)
    tests = await E2B_SANDBOX.create(request(trajectory, "evaluation"), OPTIONS)
    for sandbox in (agent, tests):
        assert (await sandbox.run(["echo", trajectory], timeout_s=30)).stdout.decode() == f"{trajectory}\n"
    await tests.close()
    await agent.close()
    finished.append(trajectory)


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("limit", [2, 3])
@pytest.mark.parametrize("companions", [1, 0])  # with 0 nobody says what else it is going to need
async def test_five_runs_that_need_two_finish_where_two_are_allowed(fake: FakeE2b, limit: int, companions: int) -> None:
    fake.state.limits.sandboxes_at_once = limit
    finished: list[str] = []
    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(run_one, f"t{number}", finished, companions)
    assert sorted(finished) == [f"t{number}" for number in range(5)]
    assert fake.state.most_at_once <= limit
    assert fake.live() == []


@pytest.mark.anyio
@pytest.mark.usefixtures("quick")
async def test_who_asked_first_goes_first(fake: FakeE2b) -> None:
    fake.state.limits.sandboxes_at_once = 3
    first, second, other = [
        await E2B_SANDBOX.create(request(f"t{number}", companions=1), OPTIONS) for number in range(3)
    ]
    made: list[str] = []
    reports: list[str] = []

    async def tests_of(trajectory: str) -> None:
        await E2B_SANDBOX.create(request(trajectory, "evaluation", report=reports.append), OPTIONS)
        made.append(trajectory)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tests_of, "t1")
        tasks.start_soon(tests_of, "t0")
        with anyio.fail_after(20):
            while "t0" not in made:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        assert made == ["t0"]
        assert fake.state.sandboxes[second.id].state == "paused"
        assert fake.state.sandboxes[first.id].state == "running"
        assert f"POST /sandboxes/{first.id}/pause" not in fake.state.calls
        await other.close()
        await first.close()
    assert made == ["t0", "t1"]
    assert fake.state.sandboxes[second.id].state == "running"
    assert (await second.run(["echo", "on"], timeout_s=20)).stdout == b"on\n"
    assert any("waiting for room on E2B" in line and "(3)" in line for line in reports)


@pytest.mark.anyio
@pytest.mark.usefixtures("quick")
async def test_no_room_for_too_long_is_an_error_that_says_what_helps(fake: FakeE2b) -> None:
    fake.state.limits.sandboxes_at_once = 1
    agent = await E2B_SANDBOX.create(request("t0", companions=1), OPTIONS)
    reports: list[str] = []
    with pytest.raises(SandboxError, match=r"no sandbox within 2 s.*maximum number") as caught:
        await E2B_SANDBOX.create(
            request("t0", "evaluation", report=reports.append), E2bOptions(template="base", wait_s=2)
        )
    assert caught.value.retryable
    assert "--eval-sandbox shared" in (caught.value.mend or "")
    assert len(reports) == 1
    await agent.close()
    assert fake.live() == []


@pytest.mark.anyio
async def test_creates_a_second_are_waited_for(fake: FakeE2b) -> None:
    fake.state.limits.creates_per_second = 1
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(E2B_SANDBOX.create, request(f"t{number}"), OPTIONS)
    assert len(fake.live()) == 3


@pytest.mark.anyio
@pytest.mark.usefixtures("quick")
async def test_a_paused_one_waits_for_room_too(fake: FakeE2b) -> None:
    fake.state.limits.sandboxes_at_once = 1
    paused = await E2B_SANDBOX.create(request("t0"), OPTIONS)
    fake.pause(paused.id)
    other = await E2B_SANDBOX.create(request("t1"), OPTIONS)
    found: list[str] = []

    async def again() -> None:
        found.append((await E2B_SANDBOX.create(request("t0"), OPTIONS)).id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again)
        await anyio.sleep(0.5)
        assert found == []
        await other.close()
    assert found == [paused.id]
