"""Commands that run to their end."""

from __future__ import annotations

import anyio
import pytest

from envoi_trace_core.errors import SandboxError, SandboxLostError, SandboxTimeoutError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.testing.sandbox_kit import SandboxKit, SandboxOracle


class CommandTests(SandboxKit):
    """`Sandbox.run`."""

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
