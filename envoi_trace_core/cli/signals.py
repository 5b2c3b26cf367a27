"""Signals end what runs, and save it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Protocol

import anyio

from envoi_trace_core.run.stop import StopRequest

SIGNAL_EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class Stoppable(Protocol):
    """A run, or several."""

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to end."""
        ...

    def ask(self, request: StopRequest) -> None:
        """Ask it to end."""
        ...


async def stop_on_signal(stop: Stoppable, say: Callable[[str], None]) -> None:
    """The first signal ends the run and saves it; further ones say that it is still saving."""
    with anyio.open_signal_receiver(*SIGNAL_EXIT_STATUS) as signals:
        async for number in signals:
            if stop.interrupted:
                say(f"{number.name}: still saving the trace and closing the sandboxes")
                continue
            say(f"{number.name}: the trace is being saved and the sandboxes closed")
            stop.ask(
                StopRequest(
                    reason="interrupted", message=f"ended by {number.name}", exit_status=SIGNAL_EXIT_STATUS[number]
                )
            )
