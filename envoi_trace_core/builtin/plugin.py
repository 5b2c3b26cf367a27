"""What the core brings itself, through the same hooks as any plugin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.specs import AgentSpec, LauncherSpec, PartParserSpec, SandboxSpec, StorageSpec


@hookimpl
def envoi_trace_agents() -> Iterable[AgentSpec[Any]]:
    """The agent that plays a script."""
    from envoi_trace_core.builtin.script.spec import SCRIPT_AGENT

    yield SCRIPT_AGENT


@hookimpl
def envoi_trace_sandboxes() -> Iterable[SandboxSpec[Any]]:
    """Processes on this machine."""
    from envoi_trace_core.builtin.local_sandbox.spec import LOCAL_SANDBOX

    yield LOCAL_SANDBOX


@hookimpl
def envoi_trace_storages() -> Iterable[StorageSpec[Any]]:
    """Files on this machine."""
    from envoi_trace_core.builtin.local_storage import LOCAL_STORAGE

    yield LOCAL_STORAGE


@hookimpl
def envoi_trace_part_parsers() -> Iterable[PartParserSpec]:
    """The parser of the script agent's events."""
    from envoi_trace_core.builtin.script.spec import SCRIPT_PARSER

    yield SCRIPT_PARSER


@hookimpl
def envoi_trace_launchers() -> Iterable[LauncherSpec[Any]]:
    """The orchestrator in this process."""
    from envoi_trace_core.builtin.local_launcher import LOCAL_LAUNCHER

    yield LOCAL_LAUNCHER
