"""Commands with live streams, and processes that outlive the call."""

from __future__ import annotations

import anyio
import pytest

from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.testing.sandbox_kit import SandboxKit, SandboxOracle


class StreamTests(SandboxKit):
    """`Sandbox.stream` and `Sandbox.spawn`."""

    @pytest.mark.anyio
    async def test_a_stream_talks_both_ways(self, sandbox: Sandbox) -> None:
        """Bytes that are no UTF-8 among them; the end comes after the input's end."""
        with anyio.fail_after(self.timeout_s):
            async with sandbox.stream(["sh", "-c", "echo warning >&2; cat; exit 4"]) as stream:
                for data in (b"one\n", b"\xff\0two"):
                    await stream.write(data)
                    got = b""
                    while len(got) < len(data):
                        got += await stream.read()
                    assert got == data
                await stream.close_stdin()
                assert await stream.read() == b""
                assert await stream.wait() == 4
                assert stream.stderr_tail == b"warning\n"

    @pytest.mark.anyio
    async def test_a_stream_carries_much_both_ways(self, sandbox: Sandbox) -> None:
        """Neither side waits for the other for ever."""
        data = bytes(range(256)) * 20_000
        got = bytearray()
        with anyio.fail_after(self.timeout_s):
            async with sandbox.stream(["cat"]) as stream, anyio.create_task_group() as tasks:

                async def feed() -> None:
                    await stream.write(data)
                    await stream.close_stdin()

                tasks.start_soon(feed)
                while chunk := await stream.read():
                    got += chunk
        assert got == data

    @pytest.mark.anyio
    async def test_much_on_stderr_does_not_block_a_stream(self, sandbox: Sandbox) -> None:
        """Its last 64 KiB are kept."""
        script = "yes error | head -c 3000000 >&2; echo last >&2; echo out"
        with anyio.fail_after(self.timeout_s):
            async with sandbox.stream(["sh", "-c", script]) as stream:
                assert await stream.read() == b"out\n"
                await stream.wait()
                assert stream.stderr_tail.endswith(b"last\n")
                assert len(stream.stderr_tail) <= 64 * 1024

    @pytest.mark.anyio
    async def test_leaving_a_stream_kills_its_group(self, sandbox: Sandbox, oracle: SandboxOracle, marker: str) -> None:
        """However it is left."""
        async with sandbox.stream(["sh", "-c", f"sleep {marker} & sleep {marker}"]):
            await self.until_running(oracle, marker, 2)
        await self.until_gone(oracle, marker)

    @pytest.mark.anyio
    async def test_killing_a_stream_ends_it(self, sandbox: Sandbox) -> None:
        """Its exit code is that of SIGKILL; killing twice is fine."""
        with anyio.fail_after(self.timeout_s):
            async with sandbox.stream(["sleep", "1000"]) as stream:
                await stream.kill()
                assert await stream.read() == b""
                assert await stream.wait() == 137
                await stream.kill()

    @pytest.mark.anyio
    async def test_errors_of_the_caller_pass_through_a_stream(self, sandbox: Sandbox) -> None:
        """As they are, not in a group."""
        with pytest.raises(KeyError, match="mine"):
            async with sandbox.stream(["cat"]):
                raise KeyError("mine")

    @pytest.mark.anyio
    async def test_a_spawned_process_goes_on_until_it_is_killed(
        self, sandbox: Sandbox, oracle: SandboxOracle, marker: str
    ) -> None:
        """With its whole group."""
        handle = await sandbox.spawn(["sh", "-c", f"sleep {marker} & sleep {marker}"])
        await self.until_running(oracle, marker, 2)
        assert await sandbox.is_alive(handle)
        await sandbox.kill(handle)
        await self.until_gone(oracle, marker)
        assert not await sandbox.is_alive(handle)
        await sandbox.kill(handle)

    @pytest.mark.anyio
    async def test_a_spawned_process_ends(self, sandbox: Sandbox) -> None:
        """And is then not alive; its cwd and environment are as asked."""
        handle = await sandbox.spawn(["sh", "-c", 'echo "$NAME" >spawned'], cwd=sandbox.workspace, env={"NAME": "x y"})

        async def ended() -> bool:
            return not await sandbox.is_alive(handle)

        await self.until(ended)
        assert await sandbox.read_file(f"{sandbox.workspace}/spawned", max_bytes=100) == b"x y\n"
