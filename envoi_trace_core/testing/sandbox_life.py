"""How a sandbox begins, is found again and ends, and what goes on in it meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import anyio
import attrs
import pytest

from envoi_trace_core.errors import SandboxError, SandboxLostError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.sandboxing.detached import DetachedProcess, Line
from envoi_trace_core.testing.sandbox_kit import SandboxKit, SandboxOracle

_ATTACH_AND_RUN = """
import importlib, json, sys
import anyio
given = json.loads(sys.argv[1])
module, _, name = given["spec"].partition(":")
spec = getattr(importlib.import_module(module), name)
async def main():
    sandbox = await spec.attach(given["id"], spec.options(**given["options"]))
    result = await sandbox.run(["cat", "note"], timeout_s=given["timeout_s"])
    sys.stdout.buffer.write(result.stdout)
anyio.run(main)
"""


class LifeTests(SandboxKit):
    """`create`, `attach`, `list_live`, `keep_alive`, `close`, and detached processes."""

    @pytest.mark.anyio
    async def test_another_process_can_attach(self, sandbox: Sandbox, options: Any) -> None:
        """By its id."""
        if not self.attaches_from_another_process:
            pytest.skip("this backend can't")
        await sandbox.write_file(f"{sandbox.workspace}/note", b"for the other")
        given = {
            "spec": self.spec_path,
            "id": sandbox.id,
            "options": attrs.asdict(options),
            "timeout_s": self.timeout_s,
        }
        argv = [sys.executable, "-c", _ATTACH_AND_RUN, json.dumps(given)]
        done = await anyio.run_process(argv, check=False, stderr=subprocess.STDOUT)
        assert done.stdout == b"for the other"

    @pytest.mark.anyio
    async def test_create_is_idempotent_by_name(self, sandbox: Sandbox, options: Any) -> None:
        """A second request of one name gives the same sandbox."""
        if not self.creates_idempotently:
            pytest.skip("this backend can't")
        request = self.make_request()
        first = await self.spec.create(request, options)
        try:
            second = await self.spec.create(request, options)
            assert first.id == second.id != sandbox.id
            await first.write_file(f"{first.workspace}/note", b"1")
            assert await second.read_file(f"{second.workspace}/note", max_bytes=1) == b"1"
        finally:
            await first.close()

    @pytest.mark.anyio
    async def test_list_live_knows_it(self, sandbox: Sandbox, options: Any) -> None:
        """With what `cleanup` prints."""
        if not self.lists_live:
            pytest.skip("this backend can't")
        found = {info.id: info for info in await self.spec.list_live(options)}
        assert (found[sandbox.id].trajectory_id, found[sandbox.id].role) == ("contract", "agent")
        await sandbox.close()
        assert sandbox.id not in {info.id for info in await self.spec.list_live(options)}

    @pytest.mark.anyio
    async def test_it_says_when_it_ends(self, sandbox: Sandbox) -> None:
        """A run moves before that, so it must be a moment of this world; None where nothing ends a sandbox."""
        if sandbox.ends_at is not None:
            assert sandbox.ends_at > datetime.now(UTC)

    @pytest.mark.anyio
    async def test_keep_alive_is_accepted(self, sandbox: Sandbox) -> None:
        """And the sandbox goes on."""
        await sandbox.keep_alive(600)
        assert (await self.sh(sandbox, "true")).exit_code == 0

    @pytest.mark.anyio
    async def test_close_leaves_nothing(
        self, sandbox: Sandbox, options: Any, oracle: SandboxOracle, marker: str
    ) -> None:
        """No process, however it was started; nothing on the backend; and every later call says so."""
        await sandbox.spawn(["sleep", marker])
        await self.sh(sandbox, f"(sleep {marker} &) ; nohup sleep {marker} >/dev/null 2>&1 &")
        await self.until_running(oracle, marker, 3)
        assert await oracle.exists(sandbox.id)
        await sandbox.close()
        await self.until_gone(oracle, marker)
        assert not await oracle.exists(sandbox.id)
        await sandbox.close()
        for call in (
            self.sh(sandbox, "true"),
            sandbox.spawn(["true"]),
            sandbox.write_file(f"{sandbox.workspace}/x", b""),
            sandbox.read_file(f"{sandbox.workspace}/x", max_bytes=1),
            self.spec.attach(sandbox.id, options),
        ):
            with pytest.raises(SandboxLostError):
                await call

    @pytest.mark.anyio
    async def test_a_stream_tells_that_the_sandbox_was_lost(self, sandbox: Sandbox, options: Any) -> None:
        """Not that its command ended."""
        if not self.attaches_from_another_process:
            pytest.skip("this backend can't")
        other = await self.spec.attach(sandbox.id, options)
        with anyio.fail_after(self.timeout_s), pytest.raises(SandboxLostError):  # noqa: PT012
            async with sandbox.stream(["cat"]) as stream:
                await other.close()
                await stream.read()

    @pytest.mark.anyio
    async def test_a_detached_process_is_fed_and_read(self, sandbox: Sandbox) -> None:
        """Lines with their offsets; the last without a newline; exit code and stderr."""
        script = 'echo ready; read line; echo "got $line"; echo trouble >&2; printf last; exit 5'
        with anyio.fail_after(self.timeout_s):
            process = await DetachedProcess.start(sandbox, name="fed", argv=["sh", "-c", script], stdin=True)
            assert await process.exit_code() is None
            assert await process.is_alive()
            await process.write(b"hello\n")
            lines = [line async for line in process.lines()]
            assert [line.data for line in lines] == [b"ready", b"got hello", b"last"]
            assert [line.end_offset for line in lines] == [6, 16, 20]
            assert await process.exit_code() == 5
            assert await process.stderr_tail() == b"trouble\n"
            assert [line.data async for line in process.lines(6)] == [b"got hello", b"last"]
            assert [line.data async for line in process.lines(20)] == []

    @pytest.mark.anyio
    async def test_a_detached_process_is_found_again(self, sandbox: Sandbox) -> None:
        """Only if it was started; its name is taken."""
        assert await DetachedProcess.attach(sandbox, "again") is None
        started = await DetachedProcess.start(sandbox, name="again", argv=["cat"], stdin=True)
        found = await DetachedProcess.attach(sandbox, "again")
        assert found is not None
        with anyio.fail_after(self.timeout_s):
            await started.write(b"1\n")
            await found.write(b"2\n")
            got: list[Line] = []
            async for line in found.lines():
                got.append(line)
                if len(got) == 2:
                    await started.kill()
        assert [line.data for line in got] == [b"1", b"2"]
        assert await found.exit_code() is None
        assert not await found.is_alive()
        with pytest.raises(SandboxError, match="already"):
            await DetachedProcess.start(sandbox, name="again", argv=["true"])

    @pytest.mark.anyio
    async def test_a_detached_command_that_is_missing_ends_with_127(self, sandbox: Sandbox) -> None:
        """And says so on stderr."""
        with anyio.fail_after(self.timeout_s):
            process = await DetachedProcess.start(sandbox, name="missing", argv=["no-such-command"], stdin=True)
            assert [line async for line in process.lines()] == []
            assert await process.exit_code() == 127
            assert b"no-such-command" in await process.stderr_tail()
