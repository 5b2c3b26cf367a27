"""Codex in a sandbox, as tests drive it: what its sessions gave, and the parts of that."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import attrs
from codex_scripted_model import ScriptedModel
from envoi_trace_codex.options import CodexOptions
from envoi_trace_codex.parsing.app_server import AppServerParser
from envoi_trace_codex.plugin import envoi_trace_agents

from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft, UsageDraft
from envoi_trace_core.protocols import AgentOutput, AgentSession, ResumeState, Sandbox
from envoi_trace_core.specs import AgentContext, McpServer

CANARY = "sk-canary-7f3a9c51e8b24d60"

MCP_SERVER = """
import json, sys
TOOL = {"name": "run_tests", "description": "Run the tests.", "annotations": {"readOnlyHint": True},
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


@attrs.define
class Codex:
    """What a test needs to open sessions of Codex, and to see what they gave."""

    sandbox: Sandbox
    model: ScriptedModel
    task_dir: Path
    options: CodexOptions
    mcp_servers: tuple[McpServer, ...] = ()
    model_name: str = "gpt-5.5"
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

    def parse(self, lines: list[str], session_id: str) -> list[Draft]:
        return parse(lines, session_id, finish=False)

    async def seen(self, *words: str) -> None:
        """Wait until a message with all these words was taken."""
        with anyio.fail_after(20):
            while not any(all(word in output.raw for word in words) for output in self.outputs):  # noqa: ASYNC110
                await anyio.sleep(0.02)

    def resume_state(self, session_id: str, **more: object) -> ResumeState:
        position = self.outputs[-1].position if self.outputs else None
        given = {"position": position, "turn_in_flight": True, "archive": None, "same_sandbox": True}
        return ResumeState(session_id=session_id, **{**given, **more})

    def drafts(self, session_id: str) -> list[Draft]:
        return parse([output.raw for output in self.outputs], session_id)

    def parts(self, session_id: str) -> list[PartDraft]:
        return [draft for draft in self.drafts(session_id) if isinstance(draft, PartDraft)]

    def total_tokens(self, session_id: str) -> int:
        drafts = self.drafts(session_id)
        return sum(draft.usage.total for draft in drafts if isinstance(draft, UsageDraft) and draft.usage)


def parse(lines: list[str], session_id: str, *, finish: bool = True) -> list[Draft]:
    parser = AppServerParser()
    drafts: list[Draft] = []
    for index, raw in enumerate(lines, 1):
        event = NativeEvent(index=index, session_id=session_id, received_at=datetime.now(UTC), raw=raw)
        drafts += parser.feed(event)
    return [*drafts, *parser.finish()] if finish else drafts
