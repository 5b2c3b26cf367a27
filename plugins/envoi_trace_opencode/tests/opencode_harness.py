"""OpenCode in a sandbox, as tests drive it: what its sessions gave, and the parts of that."""

from __future__ import annotations

import fcntl
import json
import platform
import shutil
import subprocess
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import attrs
import pytest
from envoi_trace_opencode.options import OpenCodeOptions
from envoi_trace_opencode.parsing.parser import OpenCodeParser
from envoi_trace_opencode.plugin import envoi_trace_agents
from envoi_trace_opencode.program import OPENCODE
from opencode_scripted_model import ScriptedModel
from platformdirs import user_cache_path

from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft, UnparsedEvent, UsageDraft
from envoi_trace_core.protocols import AgentOutput, AgentSession, ResumeState, Sandbox
from envoi_trace_core.specs import AgentContext, McpServer

CANARY = "sk-canary-2b8e61d4f09a4c77"

MCP_SERVER = """
import json, sys
TOOL = {"name": "run_tests", "description": "Run the tests.",
        "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}}}
for line in sys.stdin:
    message = json.loads(line)
    results = {
        "initialize": {"protocolVersion": message.get("params", {}).get("protocolVersion"),
                       "capabilities": {"tools": {}}, "serverInfo": {"name": "tests", "version": "1"}},
        "tools/list": {"tools": [TOOL]},
        "tools/call": {"content": [{"type": "text", "text": "passed 3 of 5"}], "isError": False},
    }
    if "id" in message:
        result = results.get(message["method"], {})
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


def install_opencode() -> Path:
    """The folder of the tested version's package for this machine, by npm into the user's cache, once."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing: it brings the real OpenCode")
    system = {"Darwin": "darwin", "Linux": "linux"}[platform.system()]
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine().lower()]
    package = f"opencode-{system}-{machine}"
    cache = user_cache_path("envoi-trace-tests", ensure_exists=True)
    prefix = cache / f"opencode-{OPENCODE.tested_version}"
    found = prefix / "node_modules" / package
    with (cache / "opencode.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (prefix / "whole").exists():
            spec = f"{package}@{OPENCODE.tested_version}"
            argv = ["npm", "install", "--prefix", str(prefix), "--no-audit", "--no-fund", "--loglevel=error", spec]
            subprocess.run(argv, check=True, timeout=600, capture_output=True)
            (prefix / "whole").touch()
    return found


@attrs.define
class OpenCode:
    """What a test needs to open sessions of OpenCode, and to see what they gave."""

    sandbox: Sandbox
    model: ScriptedModel
    task_dir: Path
    options: OpenCodeOptions
    mcp_servers: tuple[McpServer, ...] = ()
    model_name: str = "acme/scripted"
    checkpoint_command: tuple[str, ...] = ("true",)
    reports: list[str] = attrs.field(factory=list)
    outputs: list[AgentOutput] = attrs.field(factory=list)

    def open(self, resume: ResumeState | None = None) -> AbstractAsyncContextManager[AgentSession]:
        (spec,) = envoi_trace_agents()
        context = AgentContext(
            sandbox=self.sandbox,
            trajectory_id="trajectory-1",
            task_dir=self.task_dir,
            model=self.model_name,
            mcp_servers=self.mcp_servers,
            checkpoint_command=self.checkpoint_command,
            resume=resume,
            report=self.reports.append,
        )
        return spec.create(context, self.options)

    async def take(self, session: AgentSession, prompt: str | None) -> None:
        async for output in session.turn(prompt):
            self.outputs.append(output)

    def set_option(self, **options: object) -> None:
        self.options = attrs.evolve(self.options, **options)

    async def seen(self, *words: str) -> None:
        """Wait until an event with all these words was taken."""
        with anyio.fail_after(30):
            while not any(all(word in output.raw for word in words) for output in self.outputs):  # noqa: ASYNC110
                await anyio.sleep(0.02)

    def resume_state(self, session_id: str, **more: object) -> ResumeState:
        position = self.outputs[-1].position if self.outputs else None
        given = {"position": position, "turn_in_flight": True, "archive": None, "same_sandbox": True}
        return ResumeState(session_id=session_id, **{**given, **more})

    def drafts(self, session_id: str) -> list[Draft]:
        parser, drafts = OpenCodeParser(), []
        for index, output in enumerate(self.outputs, 1):
            event = NativeEvent(index=index, session_id=session_id, received_at=datetime.now(UTC), raw=output.raw)
            drafts += parser.feed(event)
        drafts += parser.finish()
        assert [draft for draft in drafts if isinstance(draft, UnparsedEvent)] == []
        return drafts

    def parts(self, session_id: str) -> list[PartDraft]:
        return [draft for draft in self.drafts(session_id) if isinstance(draft, PartDraft)]

    def total_tokens(self, session_id: str) -> int:
        drafts = self.drafts(session_id)
        return sum(draft.usage.total for draft in drafts if isinstance(draft, UsageDraft) and draft.usage)

    def events(self, kind: str) -> list[dict[str, object]]:
        told = [json.loads(output.raw) for output in self.outputs]
        return [event for event in told if event.get("type") == kind]

    async def processes(self, *words: str) -> list[str]:
        """Command lines in the sandbox that hold one of these words."""
        script = 'for file in /proc/[0-9]*/cmdline; do tr "\\0" " " <"$file" 2>/dev/null && echo; done; exit 0'
        told = await self.sandbox.run(("sh", "-c", script), timeout_s=30, cwd="/")
        lines = told.stdout.decode("utf-8", "replace").splitlines()
        return [line for line in lines if any(word in line for word in words) and "/proc/[0-9]*" not in line]
