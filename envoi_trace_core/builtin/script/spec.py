"""What the plugin registers: the agent and the parser of its events."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs

from envoi_trace_core.protocols import AgentSession, PartParser
from envoi_trace_core.specs import AgentContext, AgentSpec, PartParserSpec, option

EVENT_FORMAT = "script-events"


@attrs.frozen(kw_only=True)
class ScriptOptions:
    """Options of the `script` agent."""

    script: Path | None = option(None, "play this file instead of the task's script.jsonl")


def _create(context: AgentContext, options: ScriptOptions) -> AbstractAsyncContextManager[AgentSession]:
    from envoi_trace_core.builtin.script.session import open_session

    return open_session(context, options)


def _check_task(task_dir: Path, options: ScriptOptions) -> None:
    from envoi_trace_core.builtin.script.actions import load_script, script_path

    load_script(script_path(task_dir, options.script))


def _create_parser() -> PartParser:
    from envoi_trace_core.builtin.script.parser import ScriptParser

    return ScriptParser()


SCRIPT_AGENT = AgentSpec(
    name="script",
    summary="Plays the actions of a file, without a model: for oracles and for testing environments",
    options=ScriptOptions,
    event_format=EVENT_FORMAT,
    create=_create,
    runs_model=False,
    reports_cost=True,
    check_task=_check_task,
)
SCRIPT_PARSER = PartParserSpec(name=EVENT_FORMAT, summary="Events of the script agent", create=_create_parser)
