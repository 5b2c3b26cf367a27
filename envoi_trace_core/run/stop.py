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
    worth_restarting: bool = False
    """Whether the launcher may go on by itself: a turn that took too long, not a budget that is used up."""
    moves: bool = False
    """Whether the run only leaves its sandboxes: it goes on in new ones at once, whatever `--auto-resume` says."""


class StopSignal:
    """Set once, by whoever is first; an interrupt of the user outranks what was set before."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._interrupted = anyio.Event()
        self.request: StopRequest | None = None

    def ask(self, request: StopRequest) -> None:
        """Ask that the run end; the first reason stays, unless the user interrupts."""
        interrupts = request.reason == "interrupted"
        if self.request is None or (interrupts and self.request.reason != "interrupted"):
            self.request = request
        self._event.set()
        if interrupts:
            self._interrupted.set()

    @property
    def is_set(self) -> bool:
        """Whether the run must end."""
        return self.request is not None

    @property
    def interrupted(self) -> bool:
        """Whether it was the user, or a signal, that ended the run."""
        return self._interrupted.is_set()

    def reset(self) -> None:
        """Forget what ended an earlier attempt; an interrupt stays."""
        if not self.interrupted:
            self.request = None
            self._event = anyio.Event()

    async def wait(self) -> StopRequest:
        """Wait until the run must end."""
        await self._event.wait()
        assert self.request is not None
        return self.request

    async def wait_interrupted(self) -> None:
        """Wait until the user, or a signal, ends the run."""
        await self._interrupted.wait()
