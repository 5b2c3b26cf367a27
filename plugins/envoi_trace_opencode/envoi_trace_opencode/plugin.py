"""The hooks of this plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager

from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.protocols import AgentSession, PartParser
from envoi_trace_core.specs import AgentContext, AgentSpec, Carried, PartParserSpec, Requirements
from envoi_trace_opencode.options import OpenCodeOptions

EVENT_FORMAT = "opencode-events"

# Options and descriptors are all that `envoi-trace plugins` needs: the rest is imported when it is used.


def _create(context: AgentContext, options: OpenCodeOptions) -> AbstractAsyncContextManager[AgentSession]:
    from envoi_trace_opencode.opening import open_session

    return open_session(context, options)


def _requirements(options: OpenCodeOptions) -> Requirements:
    from envoi_trace_opencode.program import requirements

    return requirements(options)


def _secrets(options: OpenCodeOptions) -> Mapping[str, str]:
    from envoi_trace_opencode.credentials import all_keys

    return all_keys(options)


def _carried(options: OpenCodeOptions) -> Carried:
    from envoi_trace_opencode.credentials import carried

    return carried(options)


def _check(model: str | None, options: OpenCodeOptions) -> None:
    from envoi_trace_opencode.credentials import find_key
    from envoi_trace_opencode.providers import choose

    find_key(options, choose(model, options))


def _parser() -> PartParser:
    from envoi_trace_opencode.parsing.parser import OpenCodeParser

    return OpenCodeParser()


@hookimpl
def envoi_trace_agents() -> Iterable[AgentSpec[OpenCodeOptions]]:
    """OpenCode."""
    yield AgentSpec(
        name="opencode",
        summary="OpenCode, driven through its server.",
        options=OpenCodeOptions,
        event_format=EVENT_FORMAT,
        create=_create,
        requirements=_requirements,
        secrets=_secrets,
        carried=_carried,
        reports_cost=True,
        check=_check,
    )


@hookimpl
def envoi_trace_part_parsers() -> Iterable[PartParserSpec]:
    """The parser of what OpenCode's server tells."""
    yield PartParserSpec(name=EVENT_FORMAT, summary="Events of `opencode serve`.", create=_parser)
