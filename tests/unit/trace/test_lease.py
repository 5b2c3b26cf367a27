"""One writer a trajectory, whatever clocks, processes and storages do."""

# ruff: noqa: ASYNC110 - what is waited for happens in another process or in a storage

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import anyio
import attrs
import pytest

from envoi_trace_core.errors import StorageError, UsageError
from envoi_trace_core.trace import lease as lease_module
from envoi_trace_core.trace.convert_facts import value_to_json
from envoi_trace_core.trace.keys import lease_key
from envoi_trace_core.trace.lease import Lease, LeaseHolder, process_started, read_holder, this_machine

pytestmark = pytest.mark.anyio
KEY = lease_key("t1")
QUICK = {"staleness_s": 0.4, "interval_s": 0.05}

HOLD = """
import sys, anyio
from pathlib import Path
from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.errors import StorageError
from envoi_trace_core.trace.lease import Lease

async def main():
    async with Lease.hold(LocalStorage(Path(sys.argv[1])), "t1", staleness_s=0.4, interval_s=0.05) as lease:
        print("held", flush=True)
        try:
            await lease.wait_lost()
        except StorageError as error:
            print("lost", error, flush=True)

anyio.run(main)
"""


def hold_elsewhere(storage):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(storage.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def other(**fields):
    now = datetime.now(UTC)
    values = {
        "nonce": "n", "host": "elsewhere", "machine": "another", "pid": 1, "pid_started": "5", "started_at": now,
        "heartbeat_at": now,
    }  # fmt: skip
    return LeaseHolder(**{**values, **fields})


async def put(storage, holder):
    await storage.put(KEY, value_to_json(holder).encode())


async def test_holds_and_lets_go(storage):
    async with Lease.hold(storage, "t1") as lease:
        assert await read_holder(storage, "t1") == lease.holder
        assert lease.holder.pid == os.getpid()
        await lease.ensure_held()
    assert await storage.list("") == []
    assert await read_holder(storage, "t1") is None


async def test_a_fresh_lease_is_refused_and_its_holder_named(storage):
    await put(storage, other(pid=4711))
    with pytest.raises(UsageError, match=r"t1 is being run by process 4711 on elsewhere") as caught:
        async with Lease.hold(storage, "t1"):
            pass
    assert "envoi-trace stop t1" in caught.value.mend


async def test_this_process_holds_it_once_only(storage):
    async with Lease.hold(storage, "t1"):
        with pytest.raises(UsageError, match=f"process {os.getpid()}"):
            async with Lease.hold(storage, "t1"):
                pass
        assert await read_holder(storage, "t1") is not None


async def test_the_heartbeat_goes_on(storage):
    async with Lease.hold(storage, "t1", **QUICK) as lease:
        first = lease.holder.heartbeat_at
        with anyio.fail_after(10):
            while (await read_holder(storage, "t1")).heartbeat_at <= first:
                await anyio.sleep(0.01)


async def test_a_holder_of_this_machine_that_was_killed_is_stale_at_once(storage):
    process = hold_elsewhere(storage)
    with pytest.raises(UsageError, match=f"process {process.pid}"):
        async with Lease.hold(storage, "t1", staleness_s=60):
            pass
    process.kill()
    process.communicate(timeout=10)
    with anyio.fail_after(5):
        async with Lease.hold(storage, "t1", staleness_s=60) as lease:
            assert lease.holder.pid == os.getpid()


async def test_a_pid_that_was_given_to_another_process_is_no_holder(storage):
    await put(storage, other(machine=this_machine(), pid=os.getppid(), pid_started="1"))
    async with Lease.hold(storage, "t1"):
        pass


async def test_a_lease_that_this_process_failed_to_release_is_left_over(storage):
    await put(storage, other(machine=this_machine(), pid=os.getpid(), pid_started=process_started(os.getpid())))
    async with Lease.hold(storage, "t1"):
        pass


async def test_a_holder_that_stalls_loses_it_and_notices_when_it_wakes(storage):
    process = hold_elsewhere(storage)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with anyio.fail_after(20):
            while True:
                try:
                    async with Lease.hold(storage, "t1", **QUICK) as lease:
                        os.kill(process.pid, signal.SIGCONT)
                        said, _ = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=10))
                        assert said.startswith("lost another run took over trajectory t1")
                        assert f"process {os.getpid()}" in said
                        await lease.ensure_held()
                        assert await read_holder(storage, "t1") is not None
                    break
                except UsageError:
                    await anyio.sleep(0.05)
    finally:
        process.kill()
        process.communicate(timeout=10)


async def test_an_old_heartbeat_that_still_beats_is_not_stale(storage):
    """The other machine's clock is behind by hours."""
    is_done = False

    async def beat():
        number = 0
        while not is_done:
            number += 1
            await put(storage, other(heartbeat_at=datetime.now(UTC) - timedelta(hours=3, seconds=-number)))
            await anyio.sleep(0.02)

    async with anyio.create_task_group() as group:
        await put(storage, other(heartbeat_at=datetime.now(UTC) - timedelta(hours=3)))
        group.start_soon(beat)
        with pytest.raises(UsageError, match="is being run by"):
            async with Lease.hold(storage, "t1", staleness_s=2, interval_s=0.2):
                pass
        is_done = True


@pytest.mark.parametrize("age", [timedelta(hours=3), timedelta(hours=-3)], ids=["old", "from the future"])
async def test_a_heartbeat_of_any_clock_that_beats_no_more_is_stale(storage, age):
    await put(storage, other(heartbeat_at=datetime.now(UTC) - age))
    async with Lease.hold(storage, "t1", **QUICK):
        pass


async def test_a_clock_that_jumps_back_does_not_lose_the_lease(storage, monkeypatch):
    class Back(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(hours=5)

    async with Lease.hold(storage, "t1", **QUICK) as lease:
        monkeypatch.setattr(lease_module, "datetime", Back)
        before = (await storage.stat(KEY)).version
        with anyio.fail_after(10):
            while (await storage.stat(KEY)).version == before:
                await anyio.sleep(0.01)
        await lease.ensure_held()


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"nonce": 3}', b"\xff"])
async def test_an_unreadable_lease_is_watched_then_taken(storage, junk):
    await storage.put(KEY, junk)
    assert await read_holder(storage, "t1") is None
    async with Lease.hold(storage, "t1", **QUICK) as lease:
        assert await read_holder(storage, "t1") == lease.holder


async def test_an_outage_loses_nothing(storage):
    async with Lease.hold(storage, "t1", **QUICK) as lease:
        storage.is_down = True
        await anyio.sleep(0.6)
        with pytest.raises(StorageError, match="down"):
            await lease.ensure_held()
        storage.is_down = False
        await lease.ensure_held()
    assert await storage.list("") == []


async def test_a_lost_answer_is_no_lost_lease(storage):
    async with Lease.hold(storage, "t1", **QUICK) as lease:
        storage.lose_answers = 1
        with anyio.fail_after(10):
            while storage.lose_answers:
                await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        await lease.ensure_held()


async def test_a_lease_that_was_removed_is_put_back(storage):
    async with Lease.hold(storage, "t1", **QUICK) as lease:
        await storage.delete(KEY)
        with anyio.fail_after(10):
            while await storage.stat(KEY) is None:
                await anyio.sleep(0.01)
        await lease.ensure_held()


async def test_a_lost_lease_is_not_released(storage):
    async with Lease.hold(storage, "t1", **QUICK) as lease:
        await put(storage, other(pid=99))
        with anyio.fail_after(10), pytest.raises(StorageError, match="process 99 on elsewhere"):
            await lease.wait_lost()
        with pytest.raises(StorageError, match="took over"):
            await lease.ensure_held()
    assert (await read_holder(storage, "t1")).pid == 99


async def test_of_many_at_once_one_holds_it(storage):
    held = []
    release = anyio.Event()

    async def attempt():
        try:
            async with Lease.hold(storage, "t1"):
                held.append(1)
                await release.wait()
        except UsageError:
            held.append(0)
        if len(held) == 6:
            release.set()

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(attempt)
        with anyio.fail_after(20):
            while len(held) < 6:
                await anyio.sleep(0.01)
        release.set()
    assert sum(held) == 1


async def test_a_storage_that_hangs_does_not_keep_the_end_waiting(storage, monkeypatch):
    monkeypatch.setattr(lease_module, "RELEASE_TIMEOUT_S", 0.1)

    class Hanging:
        uri, put, stat, list = storage.uri, storage.put, storage.stat, storage.list

        async def get(self, *_, **__):
            await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with Lease.hold(Hanging(), "t1"):
            pass


async def test_the_error_of_the_body_is_not_wrapped(storage):
    with pytest.raises(KeyError):
        async with Lease.hold(storage, "t1"):
            raise KeyError
    assert await storage.list("") == []


def test_a_dead_process_has_no_start():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=10)
    assert process_started(process.pid) is None
    assert attrs.evolve(other(), machine=this_machine(), pid=process.pid).is_known_dead
    assert not other().is_known_dead
