"""Making a session: OpenCode found or installed, configured, started or attached to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from envoi_trace_core.agents.install import find_or_install
from envoi_trace_core.protocols import AgentSession
from envoi_trace_core.specs import AgentContext
from envoi_trace_opencode.config import render
from envoi_trace_opencode.credentials import find_key
from envoi_trace_opencode.driver.processes import MARK_VARIABLE
from envoi_trace_opencode.home import OpenCodeHome
from envoi_trace_opencode.options import OpenCodeOptions
from envoi_trace_opencode.program import OPENCODE
from envoi_trace_opencode.providers import choose
from envoi_trace_opencode.session import OpenCodeSession

CLOSE_TIMEOUT_S = 30.0


@asynccontextmanager
async def open_session(context: AgentContext, options: OpenCodeOptions) -> AsyncIterator[AgentSession]:
    """A session of OpenCode in the context's sandbox; leaving it ends every process of OpenCode.

    Raises:
        UsageError: No model is named, or there are no credentials; nothing was started.
        AgentError: OpenCode can't be installed or started.
        SandboxError: The sandbox failed.
    """
    choice = choose(context.model, options)
    key = find_key(options, choice)
    home = await OpenCodeHome.find(context.sandbox)
    session = OpenCodeSession(home=home, key=key, start_timeout_s=options.start_timeout_s, report=context.report)
    resume = context.resume
    try:
        if resume is None or not resume.same_sandbox or not await session.take_up(resume):
            program = await find_or_install(
                context.sandbox, OPENCODE, version=options.version, binary=options.binary, report=context.report
            )
            config = {
                "binary": program.path,
                "workspace": context.sandbox.workspace,
                "title": f"envoi-trace {context.trajectory_id}",
                "opencode": render(choice, home.hook, context.mcp_servers),
                "provider": choice.provider,
                "model": {"providerID": choice.provider, "modelID": choice.model},
                "upstream": choice.upstream,
                "retry_timeout_s": options.retry_timeout_s,
                "start_timeout_s": options.start_timeout_s,
                "mark": f"{context.trajectory_id}-{home.id}",
            }
            await home.install(config, context.checkpoint_command, MARK_VARIABLE)
            if resume is not None and not resume.same_sandbox:
                if resume.archive is not None and await home.restore(resume.archive):
                    session.session_id = resume.session_id
                else:
                    context.report("OpenCode's record of its session is lost with its sandbox: a new session begins")
            await session.start()
        yield session
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await session.close()
