"""A local sandbox, a hook that keeps a record, an MCP server, and a session that plays what a test wrote down."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.builtin.local_sandbox.spec import LOCAL_SANDBOX
from envoi_trace_core.builtin.script.parser import ScriptParser
from envoi_trace_core.builtin.script.spec import SCRIPT_AGENT, ScriptOptions
from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft
from envoi_trace_core.errors import SandboxLostError
from envoi_trace_core.protocols import AgentSession, ResumeState, Sandbox
from envoi_trace_core.specs import AgentContext, McpServer, SandboxRequest

HOOK = """
import hashlib, pathlib, sys
record, call_id = pathlib.Path(sys.argv[1]), sys.argv[2]
files = sorted(path for path in pathlib.Path().rglob("*") if path.is_file())
state = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
with record.open("a") as lines:
    lines.write(repr((call_id, state)) + "\\n")
"""

MCP_SERVER = """
import json, sys
starts, silent = sys.argv[1], "silent" in sys.argv
open(starts, "a").write("started\\n")
def answer(number, result):
    print(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    number, method, params = message.get("id"), message.get("method"), message.get("params", {})
    open(starts, "a").write(str(method) + "\\n")
    if method == "initialize":
        assert params["protocolVersion"] and params["clientInfo"]["name"]
        answer(number, {"protocolVersion": "2025-03-26", "capabilities": {"tools": {}},
                        "serverInfo": {"name": "test", "version": "0"}})
        print(json.dumps({"jsonrpc": "2.0", "id": "p1", "method": "ping"}), flush=True)
    elif method == "tools/list":
        answer(number, {"tools": [{"name": "run_tests", "inputSchema": {"type": "object"}}]})
    elif method == "tools/call" and not silent:
        path = params["arguments"]["path"]
        if path == "die":
            sys.exit(1)
        answer(number, {"content": [{"type": "text", "text": "tested " + repr(path)}], "isError": path == "bad"})
"""


@attrs.define
class Stage:
    """Everything a session of the script agent needs, and what came of it."""

    sandbox: Sandbox
    task_dir: Path
    hook: tuple[str, ...]
    mcp_servers: tuple[McpServer, ...] = ()
    forgotten: list[AbstractAsyncContextManager[AgentSession]] = attrs.field(factory=list)
    """Contexts of sessions that a test does not leave, kept so that their clean-up does not run either."""

    @property
    def record(self) -> str:
        return f"{self.sandbox.support_dir}/record"

    def write_script(self, *actions: dict[str, Any]) -> None:
        lines = "".join(json.dumps(action) + "\n" for action in actions)
        (self.task_dir / "script.jsonl").write_text(lines)

    def session(self, resume: ResumeState | None = None) -> AbstractAsyncContextManager[AgentSession]:
        context = AgentContext(
            sandbox=self.sandbox,
            trajectory_id="t1",
            task_dir=self.task_dir,
            model=None,
            mcp_servers=self.mcp_servers,
            checkpoint_command=self.hook,
            resume=resume,
            report=lambda _line: None,
        )
        return SCRIPT_AGENT.create(context, ScriptOptions())

    async def hook_calls(self) -> list[tuple[str, dict[str, str]]]:
        found = await self.sandbox.run(["sh", "-c", f"cat {self.record} || :"], timeout_s=10)
        return [eval(line) for line in found.stdout.decode().splitlines()]

    async def read(self, path: str) -> str:
        return (await self.sandbox.read_file(f"{self.sandbox.workspace}/{path}", max_bytes=1 << 20)).decode()

    async def processes(self, mark: str) -> int:
        """How many processes with that word on their command line live."""
        script = """
import os, sys
def command(pid):
    try:
        return open(f"/proc/{pid}/cmdline").read()
    except OSError:
        return ""
print(sum(sys.argv[1] in command(pid) for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()))
"""
        found = await self.sandbox.run([sys.executable, "-c", script, mark], timeout_s=10)
        return int(found.stdout)

    def add_mcp(self, *words: str, tool_timeout_s: float = 20) -> None:
        path = f"{self.sandbox.support_dir}/mcp_server.py"
        command = (sys.executable, path, f"{self.sandbox.support_dir}/mcp_log", *words)
        self.mcp_servers = (*self.mcp_servers, McpServer(name="envoi", command=command, tool_timeout_s=tool_timeout_s))


StageFactory = Callable[[], AbstractAsyncContextManager[Stage]]


@pytest.fixture
def new_stage(tmp_path: Path) -> StageFactory:
    made = 0

    @asynccontextmanager
    async def make() -> AsyncIterator[Stage]:
        nonlocal made
        made += 1
        task_dir = tmp_path / "task"
        task_dir.mkdir(exist_ok=True)
        request = SandboxRequest(
            name=f"script-test-{made}", trajectory_id="t1", role="agent", lifetime_s=600, runs_model=False
        )
        sandbox = await LOCAL_SANDBOX.create(request, LocalSandboxOptions())
        try:
            await sandbox.write_file(f"{sandbox.support_dir}/hook.py", HOOK.encode())
            await sandbox.write_file(f"{sandbox.support_dir}/mcp_server.py", MCP_SERVER.encode())
            hook = (sys.executable, f"{sandbox.support_dir}/hook.py", f"{sandbox.support_dir}/record")
            stage = Stage(sandbox, task_dir, hook)
            yield stage
        finally:
            await sandbox.close()
        for context in stage.forgotten:
            with suppress(SandboxLostError, RuntimeError):
                await context.__aexit__(None, None, None)

    return make


@pytest.fixture
async def stage(new_stage: StageFactory) -> AsyncGenerator[Stage]:
    async with new_stage() as made:
        yield made


def parse(raws: list[str]) -> list[Draft]:
    """All drafts of a session's events."""
    from datetime import UTC, datetime

    parser = ScriptParser()
    drafts: list[Draft] = []
    for index, raw in enumerate(raws, 1):
        event = NativeEvent(index=index, session_id="s", received_at=datetime.now(UTC), raw=raw)
        drafts.extend(parser.feed(event))
    return [*drafts, *parser.finish()]


@pytest.fixture
def play(stage: Stage) -> Callable[..., Any]:
    """Play a script in one session, turn after turn; gives the native events."""

    async def run(*actions: dict[str, Any], turns: int = 1) -> list[str]:
        stage.write_script(*actions)
        raws = []
        async with stage.session() as session:
            for _ in range(turns):
                raws += [output.raw async for output in session.turn("go")]
        return raws

    return run


@pytest.fixture
def parts() -> Callable[[list[str]], list[PartDraft]]:
    return lambda raws: [draft for draft in parse(raws) if isinstance(draft, PartDraft)]


@pytest.fixture
def drafts_of() -> Callable[[list[str]], list[Draft]]:
    return parse
