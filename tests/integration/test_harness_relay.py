"""The relay in a real sandbox, its agent killed for real; the bridge; the harness's Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from envoi_trace_core.builtin.local_sandbox.factory import create
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.harness import mcp_bridge
from envoi_trace_core.harness.relay import Relay, RelayStream, open_relay
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.sandboxing.bootstrap import find_python
from envoi_trace_core.specs import SandboxRequest

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@asynccontextmanager
async def local_sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    request = SandboxRequest(name="agent", trajectory_id="t", role="agent", lifetime_s=600, runs_model=False)
    sandbox = await create(request, LocalSandboxOptions(isolation="none", root=str(tmp_path / "sandboxes")))
    try:
        yield sandbox
    finally:
        await sandbox.close()


@asynccontextmanager
async def relay_in_sandbox(tmp_path: Path) -> AsyncIterator[Relay]:
    async with local_sandbox(tmp_path) as sandbox, open_relay(sandbox) as relay:
        yield relay


async def read_all(stream: anyio.abc.ByteReceiveStream) -> bytes:
    data = b""
    async for chunk in stream:
        data += chunk
    return data


async def upper(stream: RelayStream) -> None:
    await stream.send((await read_all(stream)).upper())
    await stream.send_eof()


CLIENT = """
import os, socket, sys
kind, where, text = sys.argv[1:]
if kind == "unix":
    os.chdir(os.path.dirname(where))
    s = socket.socket(socket.AF_UNIX); s.connect(os.path.basename(where))
else:
    s = socket.create_connection(("127.0.0.1", int(where)))
s.sendall(text.encode() * 1000); s.shutdown(socket.SHUT_WR)
got = b""
while True:
    data = s.recv(65536)
    if not data: break
    got += data
assert got == text.upper().encode() * 1000, got[:100]
"""


async def ask(relay: Relay, kind: str, where: str | int, text: str) -> None:
    argv = [sys.executable, "-c", CLIENT, kind, str(where), text]
    result = await relay.sandbox.run(argv, timeout_s=20)
    assert result.exit_code == 0, result.stderr.decode()


def kill_agent(relay: Relay) -> None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"{relay.directory}/relay_agent.pyz" in line:
                os.kill(int(entry.name), signal.SIGKILL)


async def until_connected_again(relay: Relay, times: int) -> None:
    with anyio.fail_after(20):
        while relay.connections < times:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.01)


async def free_port() -> int:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        return int(listener.extra(anyio.abc.SocketAttribute.local_port))


async def test_sockets_in_the_sandbox_reach_the_orchestrator_again_after_kill(tmp_path: Path) -> None:
    async with relay_in_sandbox(tmp_path) as relay:
        path = await relay.serve("shout", upper)
        port = await free_port()
        await relay.serve_tcp(port, upper)
        await ask(relay, "unix", path, "one")
        await ask(relay, "tcp", port, "two")
        kill_agent(relay)
        await until_connected_again(relay, 2)
        await relay.serve("other", upper)  # answered after the others were offered again
        await ask(relay, "unix", path, "three")
        await ask(relay, "tcp", port, "four")


async def test_orchestrator_reaches_a_server_in_the_sandbox_with_much_data(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)

    async def echo(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
        relay_in_sandbox(tmp_path) as relay,
    ):
        group.start_soon(listener.serve, echo)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await relay.connect_tcp(port) as stream, anyio.create_task_group() as writing:

            async def write() -> None:
                await stream.send(data)
                await stream.send_eof()

            writing.start_soon(write)
            assert await read_all(stream) == data
        group.cancel_scope.cancel()


async def test_refused_and_broken_connections_say_so(tmp_path: Path) -> None:
    async with relay_in_sandbox(tmp_path) as relay:
        refused = await relay.connect_tcp(await free_port())
        with pytest.raises(anyio.BrokenResourceError, match="ConnectionRefused"):
            await refused.receive()
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            stream = await relay.connect_tcp(listener.extra(anyio.abc.SocketAttribute.local_port))
            kill_agent(relay)
            with anyio.fail_after(10), pytest.raises(anyio.BrokenResourceError):
                await stream.receive()


async def test_failing_handler_takes_nothing_down(tmp_path: Path) -> None:
    async def fail(_stream: RelayStream) -> None:
        raise ValueError("a fault of ours")

    lines: list[str] = []
    async with local_sandbox(tmp_path) as sandbox, open_relay(sandbox, report=lines.append) as relay:
        path = await relay.serve("bad", fail)
        argv = [sys.executable, "-c", CLIENT, "unix", path, "x"]
        assert (await sandbox.run(argv, timeout_s=20)).exit_code != 0
        await ask(relay, "unix", await relay.serve("good", upper), "fine")
    assert "a fault of ours" in lines[0]


async def test_find_python_gives_one_that_runs(tmp_path: Path) -> None:
    async with local_sandbox(tmp_path) as sandbox:
        python = await find_python(sandbox)
        result = await sandbox.run([python, "-c", "import sys; print(sys.version_info >= (3, 9))"], timeout_s=20)
    assert result.stdout == b"True\n"


def test_bridge_waits_for_the_socket_and_ends_with_its_agent(tmp_path: Path) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    argv = [sys.executable, "-I", str(mcp_bridge.__file__), str(tmp_path / "absent.sock")]
    done = subprocess.run(
        argv, input=json.dumps(request).encode() + b"\n", capture_output=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
