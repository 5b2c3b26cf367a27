"""What the fake of Modal's control plane knows."""

from __future__ import annotations

import asyncio
import base64
import collections
import json
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
from grpclib import GRPCError, Status
from modal_fake.boxes import Box
from modal_proto import api_pb2 as api

Result = api.GenericResult


def jwt(lifetime_s: float = 3600) -> str:
    """As the SDK reads it: only its end counts."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'exp': time.time() + lifetime_s})}.x"


@attrs.define(eq=False)
class Sandbox:
    """One that lives, or has ended."""

    id: str
    app_id: str
    definition: Any
    box: Box
    tags: dict[str, str]
    created_at: float = attrs.field(factory=time.time)
    result: Any = None
    over: asyncio.Event = attrs.field(factory=asyncio.Event)
    life: asyncio.Task[None] | None = None

    @property
    def task_id(self) -> str:
        return f"ta-{self.id[3:]}V"  # the V makes it one of a V2 sandbox

    def end(self, status: Any) -> None:
        if self.result is None:
            self.result = Result(status=status)
            self.box.kill()
            self.over.set()


@attrs.define
class Image:
    """Only what sandboxes need of one: nothing is installed, see `control_plane`."""

    commands: list[str]
    env: dict[str, str]
    workdir: str


@attrs.define
class State:
    """All of it, for the handlers and for the tests."""

    root: Path
    token: tuple[str, str] = ("ak-fake", "as-fake-canary-5c1e")
    router_url: str = ""
    calls: list[str] = attrs.field(factory=list)
    faults: dict[str, list[Exception]] = attrs.field(factory=lambda: collections.defaultdict(list))
    """By RPC: raised instead of an answer, one a call."""
    lost_answers: dict[str, int] = attrs.field(factory=dict)
    """By RPC: so many calls are done, and then fail as if the answer had got lost."""
    delays_s: dict[str, float] = attrs.field(factory=dict)
    """By RPC: how long it takes until it is done."""
    late_s: dict[str, float] = attrs.field(factory=dict)
    """By RPC: how long after that the answer takes."""
    longest_life_s: float | None = None
    """Ends sandboxes earlier than they were promised."""
    apps: dict[str, str] = attrs.field(factory=dict)
    images: dict[str, Image] = attrs.field(factory=dict)
    built: list[str] = attrs.field(factory=list)
    """Commands of the layers that were not there yet."""
    secrets: dict[str, dict[str, str]] = attrs.field(factory=dict)
    sandboxes: dict[str, Sandbox] = attrs.field(factory=dict)

    def live(self) -> list[str]:
        """Ids of the sandboxes that have not ended."""
        return [sandbox.id for sandbox in self.sandboxes.values() if sandbox.result is None]

    def sandbox(self, sandbox_id: str) -> Sandbox:
        if sandbox_id not in self.sandboxes:
            raise GRPCError(Status.NOT_FOUND, f"Sandbox {sandbox_id} not found")
        return self.sandboxes[sandbox_id]

    def of_task(self, task_id: str) -> Sandbox:
        for sandbox in self.sandboxes.values():
            if sandbox.task_id == task_id and sandbox.result is None:
                return sandbox
        raise GRPCError(Status.NOT_FOUND, "Sandbox has already shut down")

    def named(self, app_id: str | None, name: str) -> Sandbox | None:
        for sandbox in self.sandboxes.values():
            if sandbox.definition.name == name and sandbox.app_id == app_id and sandbox.result is None:
                return sandbox
        return None

    def variables(self, sources: Iterable[Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in sources:
            found |= self.secrets[source.secret_id] if source.secret_id else dict(source.env.contents)
        return found


def new_id(prefix: str, characters: int = 26) -> str:
    """22 characters would mean a sandbox of the first version."""
    return f"{prefix}-{uuid.uuid4().hex[:characters]}"
