"""The frozen descriptors that hooks return. Making one does no work and imports no SDK.

A plugin's options are an attrs class in which every field has a default, made with `option`, so that
`envoi-trace plugins show NAME` can print help and unit. `options.py` fills it from `KEY=VALUE` words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.protocols import (
    AgentSession,
    Launcher,
    PartParser,
    ResumeState,
    Sandbox,
    SandboxInfo,
    SandboxRole,
    Storage,
)


def option[T](
    default: T,
    help: str,  # noqa: A002
    *,
    unit: str | None = None,
    secret: bool = False,
    path: bool = False,
) -> T:
    """A field of a plugin's options class.

    Args:
        default: Its value when the user says nothing; immutable.
        help: One sentence for `envoi-trace plugins show`.
        unit: Of a number, as it is printed: `s`, `bytes`, `USD`.
        secret: Whether the value must never reach an artifact, a log or the stored configuration.
        path: Whether a text names a file or folder on the orchestrator's side, as a field of type `Path` always does:
            the stored configuration holds it absolute, so that a resume in another working directory finds it.
    """
    field: T = attrs.field(default=default, metadata={"help": help, "unit": unit, "secret": secret, "path": path})
    return field


@attrs.frozen
class NoOptions:
    """The options of a plugin that has none."""


@attrs.frozen(kw_only=True)
class Requirements:
    """What must be installed in a sandbox before an agent runs; an image builder bakes it in."""

    apt: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    """Shell commands, run as root after the packages."""


@attrs.frozen(kw_only=True)
class Carried:
    """What a plugin needs to find the same credentials and servers on another machine. A launcher keeps it secret."""

    variables: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """Of the environment."""
    files: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """Path to text. The path is the one that the plugin looks for: absolute, or below `~`."""
    notes: Sequence[str] = ()
    """What the user should know before the run is out of sight: a login that ends soon."""


# -- agents ---------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class McpServer:
    """An MCP server that the agent must offer to its model, spoken to over its stdin and stdout."""

    name: str
    command: tuple[str, ...]
    tool_timeout_s: float
    """How long one call may take."""


@attrs.frozen(kw_only=True)
class AgentContext:
    """All that an agent is given to make a session."""

    sandbox: Sandbox
    trajectory_id: str
    task_dir: Path
    """On the orchestrator's side."""
    model: str | None
    mcp_servers: tuple[McpServer, ...]
    checkpoint_command: tuple[str, ...]
    """Run in the sandbox after each tool call, before the next action, with the call's id as a further argument."""
    resume: ResumeState | None
    """None for a new session."""
    report: Callable[[str], None]
    """Tells the user one line (a warning, an install that takes long)."""


@attrs.frozen(kw_only=True)
class AgentSpec[OptionsT]:
    """An agent: what `--agent NAME` names."""

    name: str
    summary: str
    options: type[OptionsT]
    event_format: str
    """Which part parser understands its native events."""
    create: Callable[[AgentContext, OptionsT], AbstractAsyncContextManager[AgentSession]]
    runs_model: bool = True
    """False for an agent that only does what the user wrote down: it may run without isolation."""
    requirements: Callable[[OptionsT], Requirements] = attrs.field(default=lambda _options: Requirements())
    secrets: Callable[[OptionsT], Mapping[str, str]] = attrs.field(default=lambda _options: {})
    """Name to value of every credential that the agent will use: redacted from all that is written.

    Raises UsageError when a credential is missing, so that nothing is started.
    """
    reports_cost: bool = False
    """Whether its events carry prices; if not, a cost budget needs `--agent-opt price=`."""
    check: Callable[[str | None, OptionsT], None] = attrs.field(default=lambda _model, _options: None)
    """Given `--model` and the options, before anything starts. Raises UsageError when they can't work together."""
    check_task: Callable[[Path, OptionsT], None] = attrs.field(default=lambda _task_dir, _options: None)
    """Given the task's folder, before anything starts. Raises UsageError when the agent can't work on it."""
    carried: Callable[[OptionsT], Carried] | None = None
    """For an orchestrator elsewhere; None: the variables of this environment whose values are among `secrets`."""


# -- sandboxes ------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class SandboxRequest:
    """A sandbox that is to be made."""

    name: str
    """Unique, stored before the sandbox is asked for, so that a create whose answer was lost is found again."""
    trajectory_id: str
    role: SandboxRole
    lifetime_s: float
    """Derived from the run's own timeout: the sandbox ends by itself after that."""
    runs_model: bool
    """Whether what runs in it follows a model (an unisolated sandbox is then refused)."""
    companions: int = 0
    """How many further sandboxes this trajectory asks for while this one lives: who waits for one holds this one."""
    dockerfile: Path | None = None
    """The environment's; its folder is the build's context."""
    requirements: Requirements = Requirements()
    report: Callable[[str], None] = attrs.field(default=lambda _line: None)


@attrs.frozen(kw_only=True)
class SandboxSpec[OptionsT]:
    """A kind of sandbox: what `--sandbox NAME` names."""

    name: str
    summary: str
    options: type[OptionsT]
    create: Callable[[SandboxRequest, OptionsT], Awaitable[Sandbox]]
    """Make one; when one of that name lives already, that one."""
    attach: Callable[[str, OptionsT], Awaitable[Sandbox]]
    """By `Sandbox.id`. Raises SandboxLostError when it is gone."""
    list_live: Callable[[OptionsT], Awaitable[Sequence[SandboxInfo]]]
    """Every sandbox that any trajectory of this user left, for `cleanup`."""
    max_lifetime_s: Callable[[OptionsT], float | None] = attrs.field(default=lambda _options: None)
    """The longest that one can live; None for no bound. A trajectory that takes longer moves into a new one."""
    secrets: Callable[[OptionsT], Mapping[str, str]] = attrs.field(default=lambda _options: {})
    carried: Callable[[OptionsT], Carried] | None = None
    """For an orchestrator elsewhere; None: the variables of this environment whose values are among `secrets`."""
    examine: Callable[[OptionsT], Awaitable[str]] | None = None
    """For `envoi-trace doctor`: says in a line what there is to say. Raises UsageError when it can't be used.

    Without it, doctor sees whether `list_live` works.
    """


# -- storages, parsers, launchers -----------------------------------------------------------------


@attrs.frozen(kw_only=True)
class StorageSpec[OptionsT]:
    """A kind of storage: what `--storage NAME` names."""

    name: str
    summary: str
    options: type[OptionsT]
    create: Callable[[OptionsT], Awaitable[Storage]]
    """Raises UsageError when it can't be used as it is set up (no bucket, no credentials)."""
    secrets: Callable[[OptionsT], Mapping[str, str]] = attrs.field(default=lambda _options: {})
    carried: Callable[[OptionsT], Carried] | None = None
    """For an orchestrator elsewhere; None: the variables of this environment whose values are among `secrets`."""


@attrs.frozen(kw_only=True)
class PartParserSpec:
    """A part parser: found by the `event_format` that an agent names."""

    name: str
    """The event format."""
    summary: str
    create: Callable[[], PartParser]
    options: type[NoOptions] = NoOptions


@attrs.frozen(kw_only=True)
class LauncherSpec[OptionsT]:
    """A place where the orchestrator can run."""

    name: str
    summary: str
    options: type[OptionsT]
    create: Callable[[OptionsT], Launcher]


AnySpec = AgentSpec[Any] | SandboxSpec[Any] | StorageSpec[Any] | PartParserSpec | LauncherSpec[Any]
