"""What E2B is told of a sandbox when it is made, and gives back in every listing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Self

import attrs
from e2b import AsyncSandbox, SandboxInfo, SandboxQuery, SandboxState  # noqa: TID253

from envoi_trace_core.protocols import SandboxRole
from envoi_trace_core.specs import SandboxRequest
from envoi_trace_e2b.calls import api_params, call

OURS = "envoi-trace"
PAGE = 100
MAX_PAGES = 1000


@attrs.frozen(kw_only=True)
class Record:
    """A sandbox of ours, as its metadata tells it."""

    name: str
    trajectory_id: str
    role: SandboxRole
    companions: int
    asked_at: float
    """When its trajectory asked for it, in seconds since 1970: who asked first goes first."""
    python: str | None

    @classmethod
    def of(cls, request: SandboxRequest, python: str | None) -> Self:
        """For a sandbox that is to be made."""
        return cls(
            name=request.name,
            trajectory_id=request.trajectory_id,
            role=request.role,
            companions=request.companions,
            asked_at=time.time(),
            python=python,
        )

    @classmethod
    def parse(cls, metadata: Mapping[str, str]) -> Self | None:
        """None when it is no sandbox of ours, or is one of a version to come."""
        if metadata.get(OURS) != "1" or metadata.get("role") not in ("agent", "evaluation"):
            return None
        try:
            return cls(
                name=metadata["name"],
                trajectory_id=metadata["trajectory"],
                role="agent" if metadata["role"] == "agent" else "evaluation",
                companions=int(metadata["companions"]),
                asked_at=float(metadata["asked_at"]),
                python=metadata.get("python") or None,
            )
        except (KeyError, ValueError):
            return None

    def metadata(self) -> dict[str, str]:
        """As E2B takes it."""
        return {
            OURS: "1",
            "name": self.name,
            "trajectory": self.trajectory_id,
            "role": self.role,
            "companions": str(self.companions),
            "asked_at": f"{self.asked_at:.3f}",
            "python": self.python or "",
        }


@attrs.frozen(kw_only=True)
class Listed:
    """A sandbox that lives."""

    info: SandboxInfo
    record: Record

    @property
    def is_running(self) -> bool:
        """Or else it is paused."""
        return self.info.state == SandboxState.RUNNING


async def list_ours(**only: str) -> list[Listed]:
    """All sandboxes of ours, running and paused, whose metadata holds `only`.

    Raises:
        SandboxError: E2B can't be reached.
        UsageError: The key is missing or refused.
    """

    async def once() -> list[SandboxInfo]:
        query = SandboxQuery(metadata={OURS: "1", **only}, state=[SandboxState.RUNNING, SandboxState.PAUSED])
        pages = AsyncSandbox.list(query=query, limit=PAGE, **api_params())
        found: list[SandboxInfo] = []
        for _ in range(MAX_PAGES):
            if not pages.has_next:
                break
            found += await pages.next_items()
        return found

    infos = await call("E2B's sandboxes can't be listed", once)
    records = [(info, Record.parse(info.metadata)) for info in infos]
    return [Listed(info=info, record=record) for info, record in records if record is not None]


async def find_by_name(name: str) -> Listed | None:
    """The sandbox of that name; the oldest if there are two."""
    found = await list_ours(name=name)
    return min(found, key=lambda listed: listed.info.started_at, default=None)
