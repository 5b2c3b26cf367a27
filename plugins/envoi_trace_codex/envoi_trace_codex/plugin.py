"""The hooks of this plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager

from envoi_trace_codex.options import CodexOptions
from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.protocols import AgentSession, PartParser
from envoi_trace_core.specs import AgentContext, AgentSpec, Carried, PartParserSpec, Requirements

# Options and descriptors are all that `envoi-trace plugins` needs: the rest is imported when it is used.


def _create(context: AgentContext, options: CodexOptions) -> AbstractAsyncContextManager[AgentSession]:
    from envoi_trace_codex.opening import open_session

    return open_session(context, options)


def _requirements(options: CodexOptions) -> Requirements:
    from envoi_trace_codex.program import requirements

    return requirements(options)


def _secrets(options: CodexOptions) -> Mapping[str, str]:
    from envoi_trace_codex.credentials import find_credentials

    return find_credentials(options).secrets


def _carried(options: CodexOptions) -> Carried:
    from envoi_trace_codex.credentials import carried

    return carried(options)


def _app_server_parser() -> PartParser:
    from envoi_trace_codex.parsing.app_server import AppServerParser

    return AppServerParser()


def _exec_json_parser() -> PartParser:
    from envoi_trace_codex.parsing.exec_json import ExecJsonParser

    return ExecJsonParser()


def _rollout_parser() -> PartParser:
    from envoi_trace_codex.parsing.rollout import RolloutParser

    return RolloutParser()


@hookimpl
def envoi_trace_agents() -> Iterable[AgentSpec[CodexOptions]]:
    """The `codex` agent."""
    yield AgentSpec(
        name="codex",
        summary="The OpenAI Codex CLI, driven through its app-server.",
        options=CodexOptions,
        event_format="codex-app-server",
        create=_create,
        requirements=_requirements,
        secrets=_secrets,
        carried=_carried,
    )


@hookimpl
def envoi_trace_part_parsers() -> Iterable[PartParserSpec]:
    """Parsers of what Codex writes."""
    yield PartParserSpec(name="codex-app-server", summary="Messages of `codex app-server`.", create=_app_server_parser)
    yield PartParserSpec(name="codex-exec-json", summary="Output of `codex exec --json`.", create=_exec_json_parser)
    yield PartParserSpec(
        name="codex-rollout", summary="A rollout file of Codex, from its `sessions/`.", create=_rollout_parser
    )
