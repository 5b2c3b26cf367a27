"""Making a session: Codex found or installed, configured, started or attached to, its thread begun or gone on with."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs

from envoi_trace_codex.client import AppServerClient, Position, message_of
from envoi_trace_codex.config import ConfigInput, render
from envoi_trace_codex.credentials import Credentials, find_credentials
from envoi_trace_codex.home import CodexHome
from envoi_trace_codex.launch import start_app_server
from envoi_trace_codex.options import CodexOptions
from envoi_trace_codex.parsing.values import mapping, sequence, text
from envoi_trace_codex.program import CODEX
from envoi_trace_codex.rollout_tail import RolloutTail
from envoi_trace_codex.session import CodexSession
from envoi_trace_core.agents.install import find_or_install
from envoi_trace_core.errors import AgentError
from envoi_trace_core.protocols import AgentOutput, AgentSession, ResumeState
from envoi_trace_core.sandboxing.detached import DetachedProcess
from envoi_trace_core.specs import AgentContext

CALL_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 30.0


@asynccontextmanager
async def open_session(context: AgentContext, options: CodexOptions) -> AsyncIterator[AgentSession]:
    """A session of Codex in the context's sandbox; leaving it ends every process of Codex.

    Raises:
        UsageError: There are no credentials.
        AgentError: Codex can't be installed or started, or refuses.
        SandboxError: The sandbox failed.
    """
    opening = _Opening(context=context, options=options, credentials=find_credentials(options))
    session = await opening.attach() or await opening.start()
    try:
        yield session
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await session.close()


@attrs.define(kw_only=True)
class _Opening:
    context: AgentContext
    options: CodexOptions
    credentials: Credentials
    _leftover: deque[AgentOutput] = attrs.field(factory=deque, init=False)

    @property
    def _home(self) -> CodexHome:
        return CodexHome(sandbox=self.context.sandbox, mark=self.context.trajectory_id)

    # -- a process that lives ---------------------------------------------------------------------

    async def attach(self) -> CodexSession | None:
        """The session that an earlier orchestrator left running; what a dead one wrote is kept."""
        resume = self.context.resume
        if resume is None or not resume.same_sandbox:
            return None
        home = self._home
        newest = await home.newest_process()
        noted = Position.parse(resume.position)
        if noted is not None and noted.process_name != newest:
            await self._keep_rest(noted, resume.session_id)
        process = await DetachedProcess.attach(home.sandbox, newest) if newest else None
        if newest is None or process is None:
            return None
        place = noted if noted is not None and noted.process_name == newest else Position(newest, 0)
        if await process.exit_code() is None and await process.is_alive():
            session = await self._take_up(AppServerClient(process, place.offset), resume, place)
            if session is not None:
                return session
        await process.kill()
        await self._keep_rest(place, resume.session_id)
        return None

    async def _keep_rest(self, place: Position, thread_id: str) -> None:
        """Keep what a process wrote after what was recorded; it is dead, or about to be."""
        process = await DetachedProcess.attach(self.context.sandbox, place.process_name)
        if process is None:
            return
        await process.kill()
        await self._home.kill_commands()
        start = place.offset
        async for line in process.lines(start):
            self._leftover.append(message_of(place.process_name, line, start).output)
        if place.rollout_offset is not None:
            tail = RolloutTail(self._home, thread_id, place.rollout_offset)
            position = str(attrs.evolve(place, offset=line.end_offset if self._leftover else start))
            calls = await tail.new_calls(turn_is_over=False)
            self._leftover.extend(AgentOutput(raw=raw, position=position) for raw in calls)

    async def _take_up(self, client: AppServerClient, resume: ResumeState, place: Position) -> CodexSession | None:
        """Go on with a live process; None when it has no such thread, or does not answer."""
        session = CodexSession(
            session_id=resume.session_id,
            agent_version=None,
            home=self._home,
            client=client,
            report=self.context.report,
            leftover=self._leftover,
            rollout=self._tail(resume.session_id, place.rollout_offset),
        )
        try:
            about = await client.call("thread/read", {"threadId": resume.session_id}, timeout_s=CALL_TIMEOUT_S)
            status = text(mapping(mapping(about.get("thread")).get("status")).get("type"))
            if status not in ("idle", "active"):
                await client.close()
                return None
            unread_end = any(message.method == "turn/completed" for message in client.messages)
            session.turn_in_flight = status == "active" or unread_end
            if status == "active":
                await session.learn_turn()
            session.agent_version = await self._version()
        except AgentError:
            await client.close()
            return None
        return session

    def _tail(self, thread_id: str, offset: int | None) -> RolloutTail | None:
        return None if offset is None else RolloutTail(self._home, thread_id, offset)

    async def _version(self) -> str:
        sandbox, options = self.context.sandbox, self.options
        report = self.context.report
        found = await find_or_install(sandbox, CODEX, version=options.version, binary=options.binary, report=report)
        return found.version

    # -- a new process ----------------------------------------------------------------------------

    async def start(self) -> CodexSession:
        """A session in a new process: with the thread of the one before it where there is one."""
        context, options, home = self.context, self.options, self._home
        program = await find_or_install(
            context.sandbox, CODEX, version=options.version, binary=options.binary, report=context.report
        )
        config = ConfigInput(
            options=options,
            model=context.model,
            workspace=context.sandbox.workspace,
            hook=home.hook,
            mark=home.mark,
            mcp_servers=context.mcp_servers,
            signs_in=self.credentials.login is not None,
        )
        await home.prepare(render(config), context.checkpoint_command)
        if context.resume is not None and not context.resume.same_sandbox and context.resume.archive is not None:
            await home.restore_sessions(context.resume.archive)
        client = await start_app_server(home, program.path, self.credentials, timeout_s=options.start_timeout_s)
        try:
            resumed = await self._resumed_thread(client)
            thread_id = resumed or await self._new_thread(client)
            tail = RolloutTail(home, thread_id) if resumed else None
            if tail is not None:
                await tail.skip_to_end()
            await self._check_hook(client)
        except BaseException:
            with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await client.close()
                await client.process.kill()
            raise
        return CodexSession(
            session_id=thread_id,
            agent_version=program.version,
            home=home,
            client=client,
            report=context.report,
            leftover=self._leftover,
            rollout=tail,
        )

    def _thread_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "cwd": self.context.sandbox.workspace,
            "approvalPolicy": "never",
            "sandbox": "danger-full-access",
            "config": {"bypass_hook_trust": True},
        }
        return {**settings, "model": self.context.model} if self.context.model else settings

    async def _new_thread(self, client: AppServerClient) -> str:
        settings = {**self._thread_settings(), "experimentalRawEvents": True}
        answer = await client.call("thread/start", settings, timeout_s=self.options.start_timeout_s)
        return _thread_id(answer)

    async def _resumed_thread(self, client: AppServerClient) -> str | None:
        """The thread of the session before; None when there is none that goes on."""
        resume = self.context.resume
        if resume is None:
            return None
        settings = {**self._thread_settings(), "threadId": resume.session_id, "excludeTurns": True}
        try:
            answer = await client.call("thread/resume", settings, timeout_s=self.options.start_timeout_s)
        except AgentError as error:
            if client.ended or "MCP server" in error.message:
                raise
            self.context.report(f"the thread can't go on, so a new one begins: {error.message}")
            return None
        return _thread_id(answer)

    async def _check_hook(self, client: AppServerClient) -> None:
        """Say once when this Codex has no hook after tool calls."""
        try:
            given = {"cwds": [self.context.sandbox.workspace]}
            answer = await client.call("hooks/list", given, timeout_s=CALL_TIMEOUT_S)
        except AgentError:
            if client.ended:
                raise
            answer = {}
        found = [
            mapping(hook) for entry in sequence(answer.get("data")) for hook in sequence(mapping(entry).get("hooks"))
        ]
        if not any(hook.get("command") == self._home.hook and hook.get("enabled") is True for hook in found):
            self.context.report(
                "this Codex runs no hook after tool calls: checkpoints are made when their events arrive, "
                "so a fast next action may slip into them"
            )


def _thread_id(answer: Mapping[str, Any]) -> str:
    thread_id = text(mapping(answer.get("thread")).get("id"))
    if not thread_id:
        raise AgentError("Codex gave its thread no id", retryable=True)
    return thread_id
