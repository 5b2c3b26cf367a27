"""One turn: hand over a prompt, record every event, and end it in time whatever happens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing

import anyio
import attrs

from envoi_trace_core.domain.parts import SessionEndReason
from envoi_trace_core.errors import AgentError
from envoi_trace_core.protocols import AgentOutput, AgentSession
from envoi_trace_core.run.beside import CANCEL, run_beside
from envoi_trace_core.run.stop import StopRequest, StopSignal

INTERRUPT_TIMEOUT_S = 20.0
"""How long an agent may take to end an interrupted turn, before it is left to the sandbox's end."""
RECORD_TIMEOUT_S = 300.0
"""How long recording one event may take: it is never cut in the middle by a cancel."""
SETTLE_TIMEOUT_S = 120.0
"""How long a solved run waits for the agent's test call in flight, so that its result is in the trace."""


@attrs.frozen(kw_only=True)
class TurnLimits:
    """Deadlines of a turn, in seconds; `deadline` is a moment of `time.monotonic`."""

    idle_timeout_s: float
    turn_timeout_s: float | None
    deadline: float
    timeout_s: float
    """Of the whole trajectory: only for the message."""


@attrs.define(kw_only=True)
class TurnRunner:
    """Runs turns of one session, and ends the turn in flight when the run must end."""

    session: AgentSession
    record: Callable[[AgentOutput], Awaitable[None]]
    """Records one event (`Recorder.take`)."""
    budget_reached: Callable[[], SessionEndReason | None]
    calls_settled: Callable[[], bool]
    """Whether no test call of the agent is in flight or waits for its part."""
    stop: StopSignal
    limits: TurnLimits

    _last_event_at: float = attrs.field(default=0.0, init=False)
    _ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    async def run(self, prompt: str | None) -> StopRequest | None:
        """Run a turn to its end; with None, go on with the one in flight.

        Returns:
            Why the run must end, or None when the agent handed back.

        Raises:
            AgentError: The agent failed.
            SandboxLostError: Its sandbox is gone.
        """
        self._last_event_at = time.monotonic()
        self._ended = anyio.Event()
        try:
            await run_beside(lambda: self._record_events(prompt), self._watch_deadlines, self._end_when_asked)
        except AgentError:
            if not self.stop.is_set:  # an agent that fails while it is interrupted was going to end anyway
                raise
        return self.stop.request

    async def _record_events(self, prompt: str | None) -> None:
        async with aclosing(self.session.turn(prompt)) as outputs:
            async for output in outputs:
                self._last_event_at = time.monotonic()
                with anyio.move_on_after(RECORD_TIMEOUT_S, shield=True):
                    await self.record(output)
                reason = self.budget_reached()
                if reason is not None:
                    self.stop.ask(StopRequest(reason=reason))
        self._ended.set()

    async def _watch_deadlines(self) -> None:
        began_at = time.monotonic()
        while True:
            moment, request = min(self._deadlines(began_at), key=lambda deadline: deadline[0])
            left = moment - time.monotonic()
            if left <= 0:
                self.stop.ask(request)
                return
            await anyio.sleep(left)

    def _deadlines(self, began_at: float) -> Iterator[tuple[float, StopRequest]]:
        limits = self.limits
        yield limits.deadline, _timeout(f"the run passed its timeout of {limits.timeout_s:g} s", restart=False)
        idle_s = limits.idle_timeout_s
        yield self._last_event_at + idle_s, _timeout(f"the agent gave no sign of life for {idle_s:g} s", restart=True)
        if limits.turn_timeout_s is not None:
            message = f"the turn passed its timeout of {limits.turn_timeout_s:g} s"
            yield began_at + limits.turn_timeout_s, _timeout(message, restart=True)

    async def _end_when_asked(self) -> object:
        request = await self.stop.wait()
        if request.reason == "solved":
            with anyio.move_on_after(SETTLE_TIMEOUT_S):
                while not self.calls_settled():  # noqa: ASYNC110 - it depends on the tool, the journal and the agent
                    await anyio.sleep(0.02)
        with anyio.move_on_after(INTERRUPT_TIMEOUT_S):
            await self.session.interrupt()
            await self._ended.wait()
        return CANCEL


def _timeout(message: str, *, restart: bool) -> StopRequest:
    return StopRequest(reason="timeout", message=message, worth_restarting=restart)
