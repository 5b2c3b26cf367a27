"""Puts the player and what it needs into a sandbox, and starts it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.builtin.script.position import PlayerEvent
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.sandboxing.detached import DetachedProcess
from envoi_trace_core.specs import AgentContext

MAX_STATE_BYTES = 16 * 1024 * 1024
_MAIN = "from player.main import run\nrun()\n"
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def player_archive() -> bytes:
    """The player as one file that any Python >= 3.9 runs; the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _FIXED_TIME), _MAIN)
        for path in sorted((Path(__file__).parent / "player").glob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"player/{path.name}", _FIXED_TIME), path.read_bytes())
    return buffer.getvalue()


@attrs.frozen(kw_only=True)
class PlayerHome:
    """A session's folder in the sandbox, outside the workspace."""

    sandbox: Sandbox
    session_id: str

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{self.sandbox.support_dir}/script-agent/{self.session_id}"

    async def install(self, context: AgentContext, actions: list[dict[str, Any]]) -> None:
        """Write the program, the script and the configuration; what is there already is replaced."""
        config = {
            "session_id": self.session_id,
            "workspace": self.sandbox.workspace,
            "checkpoint_command": list(context.checkpoint_command),
            "mcp_servers": [
                {"command": list(server.command), "tool_timeout_s": server.tool_timeout_s}
                for server in context.mcp_servers
            ],
        }
        await self.sandbox.write_file(f"{self.path}/player.pyz", player_archive())
        await self.sandbox.write_file(f"{self.path}/actions.json", json.dumps(actions).encode())
        await self.sandbox.write_file(f"{self.path}/config.json", json.dumps(config).encode())

    async def start(self, name: str) -> DetachedProcess:
        """Start the player; it goes on where its state says."""
        argv = [await self._python(), "-I", f"{self.path}/player.pyz", self.path]
        return await DetachedProcess.start(self.sandbox, name=name, argv=argv, stdin=True)

    async def read_state(self) -> bytes | None:
        """The player's state as it stands; None when it has not written one."""
        script = 'if [ -e "$1" ]; then cat "$1"; else exit 3; fi'
        found = await self.sandbox.run(
            ["sh", "-c", script, "sh", f"{self.path}/state.json"],
            timeout_s=60,
            cwd="/",
            max_output_bytes=MAX_STATE_BYTES,
        )
        return found.stdout if found.exit_code == 0 and not found.truncated else None

    async def write_state(self, data: bytes) -> None:
        """Replace the player's state; only while it does not run."""
        await self.sandbox.write_file(f"{self.path}/state.json", data)

    async def ended_turns(self, name: str, offset: int = 0) -> set[str]:
        """The ids of the turns whose end a process told, from a byte of its output on."""
        script = '[ ! -e "$1" ] || tail -c "+$2" "$1" | grep "^$3" || :'
        output = f"{self.sandbox.support_dir}/processes/{name}/out"
        found = await self.sandbox.run(
            ["sh", "-c", script, "sh", output, str(offset + 1), '{"type": "turn[.]'],
            timeout_s=60,
            cwd="/",
            max_output_bytes=MAX_STATE_BYTES,
        )
        events = [PlayerEvent.parse(line) for line in found.stdout.splitlines()]
        return {event.turn_id for event in events if event.ends_turn and event.turn_id is not None}

    async def _python(self) -> str:
        if self.sandbox.python is not None:
            return self.sandbox.python
        from envoi_trace_core.sandboxing.bootstrap import find_python  # only where it is needed

        return await find_python(self.sandbox)
