"""What the fake knows: sandboxes, templates, limits, and the faults that a test injects."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from e2b_fake.machine import Machine

ENVD_VERSION = "0.6.7"


@attrs.define(kw_only=True)
class Fault:
    """What is answered instead, so many times, to requests whose `METHOD /path` contains a text."""

    match: str
    times: int = 1
    status: int = 500
    headers: Mapping[str, str] = attrs.field(factory=dict)
    message: str = "injected"
    drop: bool = False
    """Nothing is answered: the connection breaks off. With `after`, when all was done that was asked for."""
    after: bool = False
    seen: int = 0


@attrs.define(kw_only=True)
class Limits:
    """Of the account; None for no limit."""

    sandboxes_at_once: int | None = None
    """Running ones; paused ones don't count."""
    creates_per_second: int | None = None
    max_life_s: float = 3600.0
    """How long one may run without a pause, whatever is asked for: an hour on Hobby."""


@attrs.define(kw_only=True)
class Template:
    """A built template: a folder that new sandboxes are copied from."""

    name: str
    folder: Path | None = None
    env: dict[str, str] = attrs.field(factory=dict)
    workdir: str = "/home/user"
    user: str = "user"


@attrs.define(kw_only=True)
class FakeSandbox:
    """One sandbox."""

    id: str
    template: Template
    metadata: dict[str, str]
    pauses_at_end: bool
    machine: Machine
    token: str = attrs.field(factory=lambda: uuid.uuid4().hex)
    started_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    end_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    state: str = "running"
    broken: asyncio.Event = attrs.field(factory=asyncio.Event)
    """Set when every open connection to it breaks; a new one after a resume."""
    processes: dict[int, Any] = attrs.field(factory=dict)
    timer: asyncio.TimerHandle | None = None


@attrs.define
class State:
    """All of one fake account. Changed on the event loop of the fake only."""

    root: Path
    limits: Limits = attrs.field(factory=Limits)
    api_key: str = "e2b_fake"
    create_delay_s: float = 0.0
    """How long a create takes."""
    url: str = ""
    sandboxes: dict[str, FakeSandbox] = attrs.field(factory=dict)
    templates: dict[str, Template] = attrs.field(factory=lambda: {"base": Template(name="base")})
    builds: dict[str, Any] = attrs.field(factory=dict)
    uploads: dict[str, bytes] = attrs.field(factory=dict)
    faults: list[Fault] = attrs.field(factory=list)
    calls: list[str] = attrs.field(factory=list)
    """Every request as `METHOD /path`."""
    deadlines_ms: list[str | None] = attrs.field(factory=list)
    """What each start of a process asked for."""
    by_key: dict[str, str] = attrs.field(factory=dict)
    """Idempotency keys of creates."""
    create_times: list[float] = attrs.field(factory=list)
    created: int = 0
    being_made: int = 0
    most_at_once: int = 0

    def take_fault(self, call: str) -> Fault | None:
        """The fault that this request meets."""
        for fault in self.faults:
            if fault.match in call and fault.seen < fault.times:
                fault.seen += 1
                return fault
        return None

    def running(self) -> int:
        return sum(sandbox.state == "running" for sandbox in self.sandboxes.values())

    def refusal(self) -> str | None:
        """Why no sandbox can be made, or resumed, right now."""
        limit = self.limits.sandboxes_at_once
        if limit is not None and self.running() + self.being_made >= limit:
            return f"You have reached the maximum number of concurrent E2B sandboxes ({limit})."
        now = time.monotonic()
        self.create_times = [then for then in self.create_times if now - then < 1]
        if self.limits.creates_per_second is not None and len(self.create_times) >= self.limits.creates_per_second:
            return "Too many sandboxes were created within a second."
        self.create_times.append(now)
        return None

    def reserve(self) -> str | None:
        """Keep a place for a sandbox that is about to be made; or why there is none."""
        if (reason := self.refusal()) is None:
            self.being_made += 1
        return reason

    async def create(self, body: Mapping[str, Any], template: Template) -> FakeSandbox:
        """Make a sandbox of a template, in the place that `reserve` kept for it."""
        try:
            await asyncio.sleep(self.create_delay_s)
            sandbox_id = f"i{uuid.uuid4().hex[:19]}"
            root = self.root / sandbox_id
            root.mkdir()
            if template.folder is not None:
                await asyncio.to_thread(copy_folder, template.folder, root)
            machine = Machine(root, {**template.env, **(body.get("envVars") or {})})
            await machine.start()
            sandbox = FakeSandbox(
                id=sandbox_id,
                template=template,
                metadata=dict(body.get("metadata") or {}),
                pauses_at_end=bool(body.get("autoPause")),
                machine=machine,
            )
            self.sandboxes[sandbox_id] = sandbox
            self.created += 1
            self.arm(sandbox, body.get("timeout", 300))
        finally:
            self.being_made -= 1
        self.most_at_once = max(self.most_at_once, self.running())
        return sandbox

    def arm(self, sandbox: FakeSandbox, seconds: float) -> None:
        """Let it end that long from now, but never after its longest life."""
        if sandbox.timer is not None:
            sandbox.timer.cancel()
        now = datetime.now(UTC)
        bound = sandbox.started_at + timedelta(seconds=self.limits.max_life_s)
        sandbox.end_at = min(now + timedelta(seconds=seconds), bound)
        left_s = max(0.0, (sandbox.end_at - now).total_seconds())
        sandbox.timer = asyncio.get_running_loop().call_later(left_s, self.end, sandbox)

    def end(self, sandbox: FakeSandbox) -> None:
        """Its time is over."""
        if sandbox.pauses_at_end:
            self.pause(sandbox)
        else:
            self.kill(sandbox)

    def kill(self, sandbox: FakeSandbox) -> None:
        if sandbox.timer is not None:
            sandbox.timer.cancel()
        sandbox.state = "killed"
        self.sandboxes.pop(sandbox.id, None)
        sandbox.machine.kill()
        sandbox.broken.set()

    def pause(self, sandbox: FakeSandbox) -> None:
        """Stop all its processes; the real one freezes its memory."""
        sandbox.state = "paused"
        if sandbox.timer is not None:
            sandbox.timer.cancel()
        sandbox.machine.freeze()
        sandbox.broken.set()

    def resume(self, sandbox: FakeSandbox) -> None:
        """Its processes go on; its longest life begins anew."""
        sandbox.state = "running"
        sandbox.started_at = datetime.now(UTC)
        sandbox.broken = asyncio.Event()
        sandbox.machine.thaw()
        self.most_at_once = max(self.most_at_once, self.running())


def copy_folder(source: Path, target: Path) -> None:
    """Copy a machine's root."""
    import shutil

    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
