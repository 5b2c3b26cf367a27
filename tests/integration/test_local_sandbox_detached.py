"""Detached processes under faults: killed readers, broken streams, killed wrappers, lost sandboxes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from envoi_trace_core.builtin.local_sandbox import factory
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.builtin.local_sandbox.sandbox import LocalSandbox
from envoi_trace_core.errors import SandboxError, SandboxLostError
from envoi_trace_core.sandboxing.detached import DetachedProcess
from envoi_trace_core.specs import SandboxRequest

pytestmark = pytest.mark.anyio
REQUEST = SandboxRequest(name="box", trajectory_id="t", role="agent", lifetime_s=300, runs_model=True)


@pytest.fixture(params=["bwrap", "none"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> LocalSandboxOptions:
    return LocalSandboxOptions(isolation=request.param, root=str(tmp_path / "sandboxes"))


@pytest.fixture
async def sandbox(options: LocalSandboxOptions) -> AsyncGenerator[LocalSandbox]:
    sandbox = await factory.create(REQUEST, options)
    yield sandbox
    await sandbox.close()


STARTER = """
import json, sys
import anyio
from envoi_trace_core.builtin.local_sandbox import factory
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.sandboxing.detached import DetachedProcess
given = json.loads(sys.argv[1])
async def main():
    sandbox = await factory.attach(given["id"], LocalSandboxOptions(**given["options"]))
    process = await DetachedProcess.start(sandbox, name="agent", argv=["sh", "-c", given["script"]], stdin=True)
    await process.write(b"go\\n")
    async for line in process.lines():
        print(line.end_offset, line.data.decode(), flush=True)
anyio.run(main)
"""
COUNT = """
read go; i=0
while [ $i -lt 400 ]; do i=$((i+1)); echo "line $i"; sleep 0.002; done
read more; echo "$more"; exit 3
"""


@pytest.mark.parametrize("after_lines", [1, 60, 200])
async def test_after_sigkill_another_program_reads_on_with_nothing_lost_or_doubled(
    sandbox: LocalSandbox, options: LocalSandboxOptions, after_lines: int
) -> None:
    given = {
        "id": sandbox.id,
        "options": {"isolation": options.isolation, "root": options.root},
        "script": COUNT,
    }
    with subprocess.Popen([sys.executable, "-c", STARTER, json.dumps(given)], stdout=subprocess.PIPE) as first:  # noqa: ASYNC220
        assert first.stdout is not None
        read = [await anyio.to_thread.run_sync(first.stdout.readline) for _ in range(after_lines)]
        first.send_signal(signal.SIGKILL)
        read += [line for line in first.stdout.readlines() if line.endswith(b"\n")]
    offset = int(read[-1].split()[0])
    process = await DetachedProcess.attach(sandbox, "agent")
    assert process is not None
    await process.write(b"more\n")
    with anyio.fail_after(30):
        rest = [line.data.decode() async for line in process.lines(offset)]
    before = [line.split(maxsplit=1)[1].decode().strip() for line in read]
    assert before + rest == [*(f"line {number}" for number in range(1, 401)), "more"]
    assert await process.exit_code() == 3


class Flaky:
    """A sandbox whose streams break after some bytes, as a network's do."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        self.sandbox = sandbox
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sandbox, name)

    @asynccontextmanager
    async def stream(self, argv: list[str], **more: Any) -> AsyncGenerator[Any]:
        self.opened += 1
        if self.opened % 3 == 0:
            raise SandboxLostError("no connection")
        async with self.sandbox.stream(argv, **more) as stream:
            yield Breaking(stream)


class Breaking:
    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.left = 700

    async def read(self, max_bytes: int = 65536) -> bytes:
        if not self.left:
            raise SandboxLostError("broken")
        data: bytes = await self.stream.read(min(max_bytes, self.left))
        self.left -= len(data)
        return data


async def test_broken_streams_are_opened_again(sandbox: LocalSandbox) -> None:
    script = (
        'i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo "line $i"; [ $((i % 20)) = 0 ] && sleep 0.01; done; printf end'
    )
    flaky = Flaky(sandbox)
    process = await DetachedProcess.start(flaky, name="agent", argv=["sh", "-c", script])  # type: ignore[arg-type]
    with anyio.fail_after(30):
        got = [line.data.decode() async for line in process.lines()]
    assert got == [*(f"line {number}" for number in range(1, 1001)), "end"]
    assert flaky.opened > 1


async def test_lines_and_the_end_come_at_once(sandbox: LocalSandbox) -> None:
    process = await DetachedProcess.start(sandbox, name="agent", argv=["cat"], stdin=True)
    delays_s = []
    with anyio.fail_after(30):
        async with aclosing(process.lines()) as lines:
            for _ in range(10):
                await process.write(b"ping\n")
                asked = time.monotonic()
                await anext(lines)
                delays_s.append(time.monotonic() - asked)
        script = "import time; time.sleep(0.3); print(time.monotonic(), flush=True)"
        ending = await DetachedProcess.start(sandbox, name="end", argv=[sys.executable, "-c", script])
        [line] = [line async for line in ending.lines()]
        noticed_s = time.monotonic() - float(line.data)
    assert sorted(delays_s)[5] < 0.1  # about 2 ms on an idle machine
    assert noticed_s < 1.0  # about 50 ms


async def test_long_lines_are_cut(sandbox: LocalSandbox) -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo short"
    process = await DetachedProcess.start(sandbox, name="agent", argv=["sh", "-c", script])
    process.max_line_bytes = 1000
    with anyio.fail_after(30):
        lines = [line async for line in process.lines()]
    assert [(len(line.data), line.end_offset, line.cut) for line in lines] == [
        (1000, 3_000_001, True),
        (5, 3_000_007, False),
    ]


async def test_an_agent_whose_wrapper_was_killed_is_read_to_its_end(sandbox: LocalSandbox) -> None:
    script = "echo begun; sleep 0.6; echo ended"
    process = await DetachedProcess.start(sandbox, name="agent", argv=["sh", "-c", script])
    got = []
    with anyio.fail_after(30):
        async for line in process.lines():
            got.append(line.data)
            if line.data == b"begun":
                await sandbox.run(["sh", "-c", f"kill -KILL $(cat {process.directory}/pid)"], timeout_s=10)
    assert got == [b"begun", b"ended"]
    assert await process.exit_code() is None


async def test_a_starter_that_died_early_is_no_obstacle(sandbox: LocalSandbox) -> None:
    directory = f"{sandbox.support_dir}/processes/agent"
    await sandbox.write_file(f"{directory}/in", b"left behind")
    assert await DetachedProcess.attach(sandbox, "agent") is None
    process = await DetachedProcess.start(sandbox, name="agent", argv=["sleep", "1000"])
    with anyio.fail_after(10):
        while (await sandbox.run(["test", "-e", f"{directory}/pid"], timeout_s=5)).exit_code:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        await sandbox.run(["rm", f"{directory}/handle"], timeout_s=5)  # as if it had died before noting it
        found = await DetachedProcess.attach(sandbox, "agent")
        assert found is not None
        assert found.handle is None
        assert await found.is_alive()
        await found.kill()
        assert [line async for line in found.lines()] == []
    assert not await process.is_alive()


async def test_a_lost_sandbox_is_an_error_not_an_end(sandbox: LocalSandbox, options: LocalSandboxOptions) -> None:
    process = await DetachedProcess.start(sandbox, name="agent", argv=["cat"], stdin=True)
    await process.write(b"one\n")
    other = await factory.attach(sandbox.id, options)
    lost = False
    try:
        with anyio.fail_after(20):
            async for _line in process.lines():
                await other.close()
    except SandboxLostError:
        lost = True
    assert lost


async def test_secrets_in_the_environment_are_in_no_command_line(sandbox: LocalSandbox) -> None:
    script = 'echo "$KEY" | wc -c; cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\0" "\\n" | grep -c hunter2'
    process = await DetachedProcess.start(
        sandbox, name="agent", argv=["sh", "-c", script.replace("hunter2", "hunter[2]")], env={"KEY": "hunter2"}
    )
    assert [line.data async for line in process.lines()] == [b"8", b"0"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-n", "a b"])
async def test_a_name_never_leads_elsewhere(sandbox: LocalSandbox, name: str) -> None:
    with pytest.raises(SandboxError, match="can't name"):
        await DetachedProcess.start(sandbox, name=name, argv=["true"])
