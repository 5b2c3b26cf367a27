"""A plugin whose agent has secrets, and keeps them in all that it saves: the tests put it on the command's path."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from envoi_trace_core.builtin.script.spec import SCRIPT_AGENT
from envoi_trace_core.hookspecs import hookimpl


class LeakySession:
    """The script agent's session, with what it was told in its saved state."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def save_state(self) -> bytes:
        kept = json.dumps({"state": (await self._session.save_state() or b"").decode(), **secrets(None)}).encode()
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz") as archive:
            member = tarfile.TarInfo("sessions/rollout.jsonl")
            member.size = len(kept)
            archive.addfile(member, io.BytesIO(kept))
        return made.getvalue()


def secrets(_options: object) -> dict[str, str]:
    return json.loads(os.environ["LEAKY_SECRETS"])


@asynccontextmanager
async def create(context: Any, options: Any) -> AsyncIterator[Any]:
    async with SCRIPT_AGENT.create(context, options) as session:
        yield LeakySession(session)


@hookimpl
def envoi_trace_agents():
    yield attrs.evolve(SCRIPT_AGENT, name="leaky", create=create, secrets=secrets)
