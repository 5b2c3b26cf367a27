"""OpenCode's folder in one sandbox: the driver, its configuration, the hook, OpenCode's own home."""

from __future__ import annotations

import io
import json
import secrets
import zipfile
from pathlib import Path
from typing import Any

import anyio
import attrs

from envoi_trace_core.errors import SandboxError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.sandboxing.bootstrap import find_python
from envoi_trace_core.sandboxing.detached import DetachedProcess
from envoi_trace_opencode.position import DriverState, Position

COMMAND_TIMEOUT_S = 60.0
MAX_ARCHIVE_BYTES = 256 * 1024 * 1024
MAX_STATE_BYTES = 65536

_MAIN = """import sys
if sys.argv[1] in ("save", "restore"):
    from driver.archive import main
    sys.exit(main(sys.argv[1:]))
from driver.main import main
sys.exit(main())
"""
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_READ = 'if [ -e "$1" ]; then head -c "$2" "$1"; else exit 3; fi'
_MAKE_PIPE = 'umask 077; mkdir -p "$1/home" && rm -f "$1/key" && mkfifo "$1/key"'
_CALL_HOME = (
    'printf "%s\\n" "$HOME" "${XDG_CONFIG_HOME-}" "${XDG_DATA_HOME-}" "${XDG_STATE_HOME-}" "${XDG_CACHE_HOME-}"'
)


def driver_program() -> bytes:
    """The driver as one file that any Python >= 3.9 runs; the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _FIXED_TIME), _MAIN)
        for path in sorted((Path(__file__).parent / "driver").glob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"driver/{path.name}", _FIXED_TIME), path.read_bytes())
    return buffer.getvalue()


@attrs.define(kw_only=True)
class OpenCodeHome:
    """One in each sandbox, outside the workspace."""

    sandbox: Sandbox
    id: str
    """Of this sandbox's one only, so that a position of another sandbox is told from one of this."""

    @classmethod
    async def find(cls, sandbox: Sandbox) -> OpenCodeHome:
        """The home that is there, else a new one."""
        home = cls(sandbox=sandbox, id="")
        noted = await home._read(f"{home.path}/id")
        home.id = (noted or b"").decode("utf-8", "replace").strip()
        if len(home.id) != 8 or not home.id.isalnum():
            home.id = secrets.token_hex(4)
            await sandbox.write_file(f"{home.path}/id", home.id.encode())
        return home

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{self.sandbox.support_dir}/opencode"

    @property
    def hook(self) -> str:
        """OpenCode's plugin that makes the checkpoints."""
        return f"{self.path}/checkpoint.js"

    def beginning(self) -> Position:
        """Of everything that the drivers of this home wrote."""
        return Position(self.id, 1, 0)

    async def install(self, config: dict[str, Any], checkpoint_command: tuple[str, ...], mark_variable: str) -> None:
        """Write the driver, the hook and the configuration; what is there already is replaced."""
        names = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
        told = await self.sandbox.run(("sh", "-c", _CALL_HOME), timeout_s=COMMAND_TIMEOUT_S, max_output_bytes=65536)
        usual = dict(zip(names, told.stdout.decode("utf-8", "replace").splitlines(), strict=False))
        # The MCP servers get the server's environment, and commands this one on top of it.
        hook_input = {"command": checkpoint_command, "environment": {**usual, mark_variable: config["mark"]}}
        config = {**config, "environment": {"ENVOI_TRACE_OPENCODE": json.dumps(hook_input)}}
        script = (Path(__file__).parent / "checkpoint.js").read_bytes()
        await self.sandbox.write_file(f"{self.path}/driver.pyz", driver_program())
        await self.sandbox.write_file(self.hook, script)
        await self.sandbox.write_file(f"{self.path}/config.json", json.dumps(config).encode(), mode=0o600)

    async def start(self, name: str, key: str, session_id: str) -> DetachedProcess:
        """Start a driver, and hand it the key through a named pipe: it is on no disk and in no environment.

        Args:
            name: Of the detached process.
            key: The provider's; empty for none.
            session_id: To go on with; empty for a new one.

        Raises:
            SandboxError: It can't be started.
        """
        made = await self.sandbox.run(("sh", "-c", _MAKE_PIPE, "sh", self.path), timeout_s=COMMAND_TIMEOUT_S)
        if made.exit_code:
            raise SandboxError(
                f"no named pipe can be made in the sandbox: {made.stderr[-300:].decode(errors='replace')}"
            )
        argv = [await self._python(), "-I", f"{self.path}/driver.pyz", self.path, session_id]
        process = await DetachedProcess.start(self.sandbox, name=name, argv=argv, cwd=self.path, stdin=True)
        with anyio.move_on_after(COMMAND_TIMEOUT_S):  # a driver that died never reads: its end tells why
            async with self.sandbox.stream(("sh", "-c", 'exec cat >"$1"', "sh", f"{self.path}/key")) as stream:
                await stream.write(f"{key}\n".encode())
                await stream.close_stdin()
                await stream.wait()
        return process

    async def attach(self, position: Position) -> DetachedProcess | None:
        """The driver of that number; None when there was none."""
        return await DetachedProcess.attach(self.sandbox, position.process_name)

    async def state(self) -> DriverState:
        """Where the newest driver stands."""
        return DriverState.parse(await self._read(f"{self.path}/state.json"))

    # -- the session's record ---------------------------------------------------------------------

    async def save(self) -> bytes | int:
        """OpenCode's database as an archive, or the exit status of why not (see `driver/archive.py`)."""
        done = await self.sandbox.run(
            (
                await self._python(),
                "-I",
                f"{self.path}/driver.pyz",
                "save",
                f"{self.path}/home",
                str(MAX_ARCHIVE_BYTES),
            ),
            timeout_s=COMMAND_TIMEOUT_S,
            cwd=self.path,
            max_output_bytes=MAX_ARCHIVE_BYTES,
        )
        return done.exit_code or (done.stdout if not done.truncated else 4)

    async def restore(self, archive: bytes) -> bool:
        """Unpack what `save` gave; says whether it worked."""
        done = await self.sandbox.run(
            (await self._python(), "-I", f"{self.path}/driver.pyz", "restore", f"{self.path}/home"),
            stdin=archive,
            timeout_s=COMMAND_TIMEOUT_S,
            cwd=self.path,
            max_output_bytes=65536,
        )
        return done.exit_code == 0

    async def _read(self, path: str) -> bytes | None:
        argv = ("sh", "-c", _READ, "sh", path, str(MAX_STATE_BYTES))
        found = await self.sandbox.run(argv, timeout_s=COMMAND_TIMEOUT_S, cwd="/", max_output_bytes=2 * MAX_STATE_BYTES)
        return found.stdout if found.exit_code == 0 else None

    async def _python(self) -> str:
        return self.sandbox.python or await find_python(self.sandbox)
