"""What every sandbox must do, as tests that a plugin's author runs against a real one.

    class TestMySandbox(SandboxContract):
        spec_path = "my_package.spec:MY_SANDBOX"

        @pytest.fixture
        def options(self) -> MyOptions:
            return MyOptions(...)

        @pytest.fixture
        def oracle(self) -> SandboxOracle:
            return MyOracle(...)

The oracle looks at the backend another way than through the sandbox under test: its API, its process table.
A flag that is set to False says that the backend can't do that, and skips those tests; a test that is overridden
should say why.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, ClassVar, Protocol

import anyio
import attrs
import pytest

from envoi_trace_core.errors import SandboxError, SandboxLostError, SandboxTimeoutError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.sandboxing.detached import DetachedProcess, Line
from envoi_trace_core.specs import SandboxRequest, SandboxSpec

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


class SandboxOracle(Protocol):
    """Looks at the backend another way than through the sandbox under test."""

    async def exists(self, sandbox_id: str) -> bool:
        """Whether the backend still holds anything of that sandbox: a machine, a folder, a process."""
        ...

    async def count_processes(self, marker: str) -> int:
        """How many processes run whose command line holds the marker, in any sandbox."""
        ...


class SandboxContract:
    """Subclass it, name the spec, supply `options` and `oracle`."""

    spec_path: ClassVar[str]
    """`module:NAME` of the `SandboxSpec`; importable from another process too."""
    timeout_s: ClassVar[float] = 60.0
    """How long a command that should take no time may take on this backend."""
    settle_s: ClassVar[float] = 10.0
    """How long the backend may take until the oracle sees that something ended."""
    attaches_from_another_process: ClassVar[bool] = True
    creates_idempotently: ClassVar[bool] = True
    lists_live: ClassVar[bool] = True

    # -- what the kit works with ----------------------------------------------------------------

    @pytest.fixture
    def options(self) -> Any:
        """The options for the sandboxes; override."""
        return self.spec.options()

    @pytest.fixture
    def oracle(self) -> SandboxOracle:
        """Override."""
        raise NotImplementedError

    @property
    def spec(self) -> SandboxSpec[Any]:
        """The spec under test."""
        module, _, name = self.spec_path.partition(":")
        found: SandboxSpec[Any] = getattr(importlib.import_module(module), name)
        return found

    def make_request(self, name: str | None = None) -> SandboxRequest:
        """A request for a sandbox of a name that no other has."""
        return SandboxRequest(
            name=name or f"contract-{uuid.uuid4().hex[:12]}",
            trajectory_id="contract",
            role="agent",
            lifetime_s=600,
            runs_model=True,
        )

    @pytest.fixture
    async def sandbox(self, options: Any) -> AsyncGenerator[Sandbox]:
        """A fresh sandbox, closed at the end."""
        sandbox = await self.spec.create(self.make_request(), options)
        try:
            yield sandbox
        finally:
            await sandbox.close()

    @pytest.fixture
    def marker(self) -> str:
        """A number of seconds for `sleep` that names the process to the oracle."""
        return f"8{uuid.uuid4().int % 10**11}"

    async def sh(self, sandbox: Sandbox, script: str, **more: Any) -> Any:
        """Run a shell script."""
        return await sandbox.run(["sh", "-c", script], **{"timeout_s": self.timeout_s, **more})

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition, for as long as the backend may take."""
        with anyio.fail_after(self.settle_s):
            while not await condition():  # noqa: ASYNC110 - what it looks at is elsewhere
                await anyio.sleep(0.02)

    async def until_gone(self, oracle: SandboxOracle, marker: str) -> None:
        """Wait until no process with that marker runs."""

        async def gone() -> bool:
            return await oracle.count_processes(marker) == 0

        await self.until(gone)

    async def until_running(self, oracle: SandboxOracle, marker: str, count: int = 1) -> None:
        """Wait until so many processes with that marker run."""

        async def running() -> bool:
            return await oracle.count_processes(marker) >= count

        await self.until(running)

    # -- run ------------------------------------------------------------------------------------

    @pytest.mark.anyio
    async def test_run_gives_exit_code_and_both_outputs_as_bytes(self, sandbox: Sandbox) -> None:
        """Outputs that are no UTF-8 come as they are."""
        result = await self.sh(sandbox, r"printf '\377\000\n'; printf 'e\376' >&2; exit 7")
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"\xff\0\n", b"e\xfe")
        assert not result.truncated

    @pytest.mark.anyio
    async def test_run_gives_a_signal_as_a_shell_does(self, sandbox: Sandbox) -> None:
        """128 + N."""
        assert (await self.sh(sandbox, "kill -KILL $$")).exit_code == 137
        assert (await self.sh(sandbox, "kill -TERM $$")).exit_code == 143

    @pytest.mark.anyio
    async def test_run_passes_arguments_as_they_are(self, sandbox: Sandbox) -> None:
        """No shell reads them."""
        words = ["two words", "new\nline", "quo'te\"s", "$HOME *", "", "-n", "ümlaut", "back\\slash"]
        result = await sandbox.run(["printf", "%s|", *words], timeout_s=self.timeout_s)
        assert result.stdout.decode() == "".join(f"{word}|" for word in words)

    @pytest.mark.anyio
    async def test_run_starts_in_the_workspace_with_a_minimal_environment(
        self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The orchestrator's own environment stays outside."""
        monkeypatch.setenv("ENVOI_TRACE_CONTRACT_SECRET", "hunter2")
        result = await self.sh(sandbox, 'pwd -P; cd "$HOME" && [ -w . ] && echo home; env', env={"ADDED": "a b\nc"})
        lines = result.stdout.decode().splitlines()
        assert lines[:2] == [sandbox.workspace, "home"]
        assert "ADDED=a b" in lines
        assert any(line.startswith("PATH=") for line in lines)
        assert b"hunter2" not in result.stdout

    @pytest.mark.anyio
    async def test_run_honours_cwd(self, sandbox: Sandbox) -> None:
        """A folder that is missing is an error."""
        result = await self.sh(sandbox, 'mkdir -p "a b" && cd "a b" && pwd -P')
        folder = result.stdout.decode().strip()
        assert (await self.sh(sandbox, "pwd -P", cwd=folder)).stdout.decode().strip() == folder
        with pytest.raises(SandboxError):
            await self.sh(sandbox, "true", cwd=f"{sandbox.workspace}/missing")

    @pytest.mark.anyio
    async def test_run_feeds_stdin_without_deadlock(self, sandbox: Sandbox) -> None:
        """Big input and big output at once; an input that nobody reads; no input."""
        data = bytes(range(256)) * 20_000
        assert (await sandbox.run(["cat"], stdin=data, timeout_s=self.timeout_s)).stdout == data
        assert (await sandbox.run(["true"], stdin=data, timeout_s=self.timeout_s)).exit_code == 0
        assert (await sandbox.run(["cat"], timeout_s=self.timeout_s)).stdout == b""

    @pytest.mark.anyio
    async def test_run_bounds_outputs_and_drains_the_rest(self, sandbox: Sandbox) -> None:
        """The beginning is kept, and the command ends as if all had been read."""
        result = await self.sh(sandbox, "yes ab | head -c 20000000; echo end >&2; exit 3", max_output_bytes=1000)
        assert (result.exit_code, result.truncated) == (3, True)
        assert (result.stdout, result.stderr) == (b"ab\n" * 333 + b"a", b"end\n")

    @pytest.mark.anyio
    async def test_run_does_not_wait_for_what_is_left_in_the_background(self, sandbox: Sandbox, marker: str) -> None:
        """A background process may hold the outputs open."""
        with anyio.fail_after(self.timeout_s):
            assert (await self.sh(sandbox, f"sleep {marker} & echo done")).stdout == b"done\n"

    @pytest.mark.anyio
    async def test_a_deadline_kills_the_group_and_keeps_the_output(
        self, sandbox: Sandbox, oracle: SandboxOracle, marker: str
    ) -> None:
        """Grandchildren in the background too."""
        script = f"echo out; echo err >&2; (sleep {marker} & sleep {marker}) & sleep {marker}"
        with pytest.raises(SandboxTimeoutError) as caught:
            await self.sh(sandbox, script, timeout_s=1)
        assert (caught.value.stdout, caught.value.stderr) == (b"out\n", b"err\n")
        await self.until_gone(oracle, marker)

    @pytest.mark.anyio
    async def test_cancelling_a_run_kills_the_group(self, sandbox: Sandbox, oracle: SandboxOracle, marker: str) -> None:
        """Nothing runs on."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.sh, sandbox, f"sleep {marker} & sleep {marker}")
            await self.until_running(oracle, marker, 2)
            tasks.cancel_scope.cancel()
        await self.until_gone(oracle, marker)

    @pytest.mark.anyio
    async def test_a_command_that_is_missing_is_an_error(self, sandbox: Sandbox) -> None:
        """Not a lost sandbox."""
        with pytest.raises(SandboxError) as caught:
            await sandbox.run(["no-such-command-anywhere"], timeout_s=self.timeout_s)
        assert not isinstance(caught.value, SandboxLostError | SandboxTimeoutError)

    @pytest.mark.anyio
    async def test_runs_go_on_side_by_side(self, sandbox: Sandbox) -> None:
        """Twenty commands that wait for each other."""
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                script = f"touch side-{number}; while [ $(ls side-* | wc -l) -lt 20 ]; do sleep 0.05; done"
                tasks.start_soon(self.sh, sandbox, script)

    # -- stream ---------------------------------------------------------------------------------

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

    # -- spawn ----------------------------------------------------------------------------------

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

    # -- files ----------------------------------------------------------------------------------

    @pytest.mark.anyio
    @pytest.mark.parametrize("size_bytes", [0, 1, 20_000_000])
    async def test_files_are_written_and_read_as_bytes(self, sandbox: Sandbox, size_bytes: int) -> None:
        """Of any size; folders are made."""
        data = (bytes(range(256)) * (size_bytes // 256 + 1))[:size_bytes]
        path = f"{sandbox.support_dir}/new/folder/file"
        await sandbox.write_file(path, b"something before")
        await sandbox.write_file(path, data)
        assert await sandbox.read_file(path, max_bytes=size_bytes) == data
        assert (await sandbox.run(["wc", "-c", path], timeout_s=self.timeout_s)).stdout.split()[0] == b"%d" % size_bytes

    @pytest.mark.anyio
    @pytest.mark.parametrize("name", ["two words", "new\nline", "quo'te\"s", "-n", "$HOME", "ümlaut", "back\\slash"])
    async def test_files_may_have_odd_names(self, sandbox: Sandbox, name: str) -> None:
        """No shell reads them."""
        await sandbox.write_file(f"{sandbox.workspace}/{name}", b"data")
        assert await sandbox.read_file(f"{sandbox.workspace}/{name}", max_bytes=4) == b"data"
        assert (await self.sh(sandbox, "printf '%s' *")).stdout.decode() == name

    @pytest.mark.anyio
    async def test_files_have_the_mode_asked_for(self, sandbox: Sandbox) -> None:
        """A script can be run at once."""
        path = f"{sandbox.workspace}/script"
        await sandbox.write_file(path, b"#!/bin/sh\necho ran\n", mode=0o755)
        assert (await sandbox.run([path], timeout_s=self.timeout_s)).stdout == b"ran\n"

    @pytest.mark.anyio
    async def test_what_can_not_be_read_or_written_is_an_error(self, sandbox: Sandbox) -> None:
        """Missing, a folder, too long."""
        path = f"{sandbox.workspace}/file"
        await sandbox.write_file(path, b"12345")
        for wrong, max_bytes in ((f"{sandbox.workspace}/missing", 10), (sandbox.workspace, 10), (path, 4)):
            with pytest.raises(SandboxError) as caught:
                await sandbox.read_file(wrong, max_bytes=max_bytes)
            assert not isinstance(caught.value, SandboxLostError)
        with pytest.raises(SandboxError):
            await sandbox.write_file(f"{path}/below-a-file", b"")
        assert await sandbox.read_file(path, max_bytes=5) == b"12345"

    # -- life -----------------------------------------------------------------------------------

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

    # -- detached processes ---------------------------------------------------------------------

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
