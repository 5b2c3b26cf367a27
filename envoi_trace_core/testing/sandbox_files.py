"""Files in and out."""

from __future__ import annotations

import pytest

from envoi_trace_core.errors import SandboxError, SandboxLostError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.testing.sandbox_kit import SandboxKit


class FileTests(SandboxKit):
    """`Sandbox.write_file` and `Sandbox.read_file`."""

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
