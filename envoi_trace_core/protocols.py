"""What the things that plugins make can do. The core knows plugins only by these.

Every method that waits takes a deadline or is bounded by its caller; every error is of
`envoi_trace_core.errors`. Implementations are entered through async context managers or closed by the
caller that made them, so each has exactly one owner.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import attrs

from envoi_trace_core.domain.drafts import Draft, NativeEvent

if TYPE_CHECKING:  # a run is made of these protocols: imported for real, it would be a circle
    from envoi_trace_core.run.config import RunConfig
    from envoi_trace_core.run.observer import Observer
    from envoi_trace_core.run.outcome import RunOutcome
    from envoi_trace_core.run.stop import StopSignal

# -- sandboxes ------------------------------------------------------------------------------------

SandboxRole = Literal["agent", "evaluation"]


@attrs.frozen(kw_only=True)
class CommandResult:
    """A command that ran to its end."""

    exit_code: int
    """As a shell gives it: 128 + N for a command that signal N ended."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """Whether either output was longer than the caller's bound; its beginning is kept."""


class Stream(Protocol):
    """A live command: its stdin and stdout as bytes. It breaks as networks do; nothing is kept for later."""

    async def read(self, max_bytes: int = 65536) -> bytes:
        """The next output, at least one byte; empty at the end.

        Raises:
            SandboxLostError: The stream broke.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Feed the command.

        Raises:
            SandboxLostError: The stream broke, or the command has ended.
        """
        ...

    async def close_stdin(self) -> None:
        """End the command's input."""
        ...

    async def wait(self) -> int:
        """Wait for the end; gives the exit code."""
        ...

    async def kill(self) -> None:
        """Kill the command's process group. Fine when it has ended."""
        ...

    @property
    def stderr_tail(self) -> bytes:
        """The last 64 KiB that the command wrote to stderr so far."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """A place where commands run apart from the orchestrator.

    Commands get a minimal environment (PATH, HOME, LANG, TMPDIR, proxies), never the orchestrator's own,
    plus `env`. Everything that comes out of a sandbox is untrusted.
    """

    @property
    def id(self) -> str:
        """Names it to `attach`, also from another process."""
        ...

    @property
    def workspace(self) -> str:
        """Absolute path of the folder in which the agent works."""
        ...

    @property
    def support_dir(self) -> str:
        """Absolute path of a writable folder outside the workspace, for what the core and agents keep there."""
        ...

    @property
    def python(self) -> str | None:
        """A Python that has the harness's packages already; None when one must be installed."""
        ...

    @property
    def ends_at(self) -> datetime | None:
        """When it ends whatever anyone does (aware UTC), with every extension that is possible; None for never."""
        ...

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        max_output_bytes: int = 64 * 1024 * 1024,
    ) -> CommandResult:
        """Run a command to its end; its working directory is the workspace unless `cwd` says otherwise.

        Raises:
            SandboxTimeoutError: It passed the deadline; its process group was killed.
            SandboxLostError: The sandbox is gone.
            SandboxError: The command could not be started.
        """
        ...

    def stream(
        self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """Run a command with live stdin and stdout; leaving the context kills its process group."""
        ...

    async def spawn(self, argv: Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Start a process that outlives this call and this program; gives a handle that any program can use.

        Its standard streams are closed: see `envoi_trace_core.sandboxing.detached` for one with files.
        """
        ...

    async def is_alive(self, handle: str) -> bool:
        """Whether a spawned process, or anything of its process group, still runs."""
        ...

    async def kill(self, handle: str) -> None:
        """Kill a spawned process with its whole process group. Fine when it has ended."""
        ...

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file atomically, making its folders."""
        ...

    async def read_file(self, path: str, *, max_bytes: int) -> bytes:
        """Read a file.

        Raises:
            SandboxError: It is missing, or longer than `max_bytes`.
        """
        ...

    async def keep_alive(self, lifetime_s: float) -> None:
        """Ask that the sandbox live that long from now, as far as it can."""
        ...

    async def close(self) -> None:
        """End the sandbox with everything in it. Fine when it is gone."""
        ...


@attrs.frozen(kw_only=True)
class SandboxInfo:
    """A sandbox that lives, as `envoi-trace cleanup` lists it."""

    id: str
    trajectory_id: str
    role: SandboxRole
    created_at: datetime | None = None


# -- storages -------------------------------------------------------------------------------------


@attrs.frozen
class Absent:
    """Put only if there is no object under the key."""


@attrs.frozen
class AtVersion:
    """Put only if the object is still at this version."""

    version: str


@attrs.frozen(kw_only=True)
class ObjectInfo:
    """An object in a storage."""

    key: str
    size_bytes: int
    version: str
    """Changes with every put; what it looks like is the storage's own matter."""
    modified_at: datetime


@runtime_checkable
class Storage(Protocol):
    """Objects under keys such as `trajectories/<id>/trace.parquet`. A put is atomic: all of it, or nothing."""

    def uri(self, key: str) -> str:
        """How a person would name that object: a path, `s3://bucket/key`."""
        ...

    async def put(self, key: str, data: bytes | Path, *, condition: Absent | AtVersion | None = None) -> str:
        """Write an object; gives its new version.

        Raises:
            ConditionFailedError: The condition does not hold.
            StorageError: It could not be written; `retryable` says whether to try again.
        """
        ...

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Read an object, or a range of it (bytes).

        Raises:
            KeyMissingError: There is none.
        """
        ...

    async def stat(self, key: str) -> ObjectInfo | None:
        """An object's size and version, or None."""
        ...

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        """All objects whose key starts with `prefix`, sorted by key."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object. Fine when there is none."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


# -- agents ---------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class AgentOutput:
    """One native event, as an `AgentSession` reads it."""

    raw: str
    """Its text, without the line end."""
    position: str
    """Where the agent's output goes on after it, in the session's own notation; given back at a resume."""
    hands_back: bool = False
    """Whether the agent ended its turn with it, of its own accord: nothing to go on with is left of that turn."""


@runtime_checkable
class AgentSession(Protocol):
    """One conversation of an agent in a sandbox. Made by `AgentSpec.create`; leaving that context ends it."""

    @property
    def session_id(self) -> str:
        """The agent's own name for the conversation."""
        ...

    @property
    def agent_version(self) -> str | None:
        """The version of the agent that runs in the sandbox."""
        ...

    @property
    def turn_in_flight(self) -> bool:
        """After a resume: whether the agent is still working on its last prompt."""
        ...

    def turn(self, prompt: str | None) -> AsyncGenerator[AgentOutput]:
        """Hand over a prompt, and give every event until the agent hands back.

        With None, go on with the turn in flight. After `interrupt` the iterator ends within a bounded time. The event
        by which an agent ends its turn of its own accord has `hands_back`.

        Raises:
            AgentError: The agent failed, in its own words; what it emitted before was given.
            SandboxLostError: The sandbox is gone.
        """
        ...

    async def interrupt(self) -> None:
        """End the turn in flight, and every process that it started. Fine when there is none."""
        ...

    async def save_state(self) -> bytes | None:
        """All that the conversation needs to go on in a fresh sandbox; None when the agent can't do that.

        A file, or a tar of files; bare, or compressed by gzip or zstd. What is stored of it, and given back, has the
        secrets that it holds replaced by as many stars, byte for byte, in each file: see `trace/redact_archive.py`.
        """
        ...


@attrs.frozen(kw_only=True)
class ResumeState:
    """What an agent needs to take up a conversation again."""

    session_id: str
    position: str | None
    """Of the last event that was recorded; None when there was none."""
    turn_in_flight: bool
    """Whether the orchestrator died in the middle of a turn."""
    prompt_arrived: bool = True
    """Whether an event of that turn is recorded, so that the agent surely had its prompt."""
    archive: bytes | None
    """The newest `save_state`; None when there is none."""
    same_sandbox: bool
    """Whether the sandbox in which it ran still lives."""


# -- part parsers ---------------------------------------------------------------------------------


@runtime_checkable
class PartParser(Protocol):
    """Makes parts of native events. One object a session: deltas are joined, calls paired with results.

    It is synchronous, does no I/O, never raises on a strange event, and gives the same drafts for the same
    events whenever they are fed again.
    """

    def feed(self, event: NativeEvent) -> Sequence[Draft]:
        """The drafts that this event completes, in order; mostly none."""
        ...

    def finish(self) -> Sequence[Draft]:
        """The drafts that can be made of what is still open when the session ends."""
        ...


# -- launchers ------------------------------------------------------------------------------------


class Launcher(Protocol):
    """The place where the orchestrator itself runs."""

    async def launch(
        self, config: RunConfig, *, observer: Observer, stop: StopSignal, detach: bool
    ) -> RunOutcome | None:
        """Run a trajectory to its end, through restarts, or hand it over and return.

        Returns:
            How it ended; None when it goes on elsewhere (`detach`).

        Raises:
            UsageError: It can't be run like that; nothing was started.
        """
        ...
