"""The one place that says that a run must end, and why: budgets, deadlines, `solved`, signals."""

from __future__ import annotations

import anyio
import attrs

from envoi_trace_core.domain.parts import SessionEndReason


@attrs.frozen(kw_only=True)
class StopRequest:
    """Why a run ends."""

    reason: SessionEndReason
    message: str | None = None
    exit_status: int | None = None
    """Of an interrupt: 130, 143 or 129."""


class StopSignal:
    """Set once, by whoever is first; an interrupt of the user outranks what was set before."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._interrupted = anyio.Event()
        self.request: StopRequest | None = None

    def ask(self, reason: SessionEndReason, message: str | None = None, *, exit_status: int | None = None) -> None:
        """Ask that the run end; the first reason stays, unless the user interrupts."""
        if self.request is None or (reason == "interrupted" and self.request.reason != "interrupted"):
            self.request = StopRequest(reason=reason, message=message, exit_status=exit_status)
        self._event.set()
        if reason == "interrupted":
            self._interrupted.set()

    @property
    def is_set(self) -> bool:
        """Whether the run must end."""
        return self.request is not None

    async def wait(self) -> StopRequest:
        """Wait until the run must end."""
        await self._event.wait()
        assert self.request is not None
        return self.request

    async def wait_interrupted(self) -> None:
        """Wait until the user, or a signal, ends the run."""
        await self._interrupted.wait()
