"""A run that outlives its sandboxes moves into new ones before they end.

A move is an end of the attempt that is followed by the next one at once: the conversation goes on in a sandbox that
is made as after a crash, from the last checkpoint and the agent's own state. From `early` on it waits for the end of
the turn; at `late` the turn is interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import anyio
import attrs

from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.run.stop import StopRequest, StopSignal

EARLY_S, EARLY_SHARE = 1800.0, 0.25
LATE_S, LATE_SHARE = 600.0, 0.125
"""Before the end: at most so many seconds, and at most that share of what the sandbox had left when the run took it."""


@attrs.frozen(kw_only=True)
class Move:
    """When a run must leave its sandboxes (aware UTC)."""

    sandbox_id: str
    ends_at: datetime
    early: datetime
    late: datetime

    @property
    def is_due(self) -> bool:
        """Whether the run should move at the next end of a turn."""
        return datetime.now(UTC) >= self.early

    def request(self) -> StopRequest:
        """What ends the attempt."""
        return StopRequest(
            reason="infrastructure_error",
            message=f"sandbox {self.sandbox_id} ends at {self.ends_at:%H:%M:%S} UTC: the run moves into a new one",
            worth_restarting=True,
            moves=True,
        )

    async def force(self, stop: StopSignal) -> None:
        """Wait until it is late, and end the attempt then, turn or no turn."""
        # The wall clock may be set while one sleeps, so it is looked at now and then.
        while (left_s := (self.late - datetime.now(UTC)).total_seconds()) > 0:  # noqa: ASYNC110 - a moment is no event
            await anyio.sleep(min(left_s, 60.0))
        stop.ask(self.request())


def planned_move(sandboxes: Iterable[Sandbox]) -> Move | None:
    """The move that the sandbox with the nearest end asks for; None when none of them ends."""
    bounded = [(sandbox.ends_at, sandbox.id) for sandbox in sandboxes if sandbox.ends_at is not None]
    if not bounded:
        return None
    ends_at, sandbox_id = min(bounded)
    left_s = max(0.0, (ends_at - datetime.now(UTC)).total_seconds())
    return Move(
        sandbox_id=sandbox_id,
        ends_at=ends_at,
        early=ends_at - timedelta(seconds=min(EARLY_S, EARLY_SHARE * left_s)),
        late=ends_at - timedelta(seconds=min(LATE_S, LATE_SHARE * left_s)),
    )
