"""Wait for a sandbox when the account has no more to give, without runs that wait for each other for ever.

A trajectory whose tests run in a sandbox of their own needs two. When many start at once each may hold one and wait
for the other's. So whoever waits for its second sandbox pauses its first, which gives the place back: paused ones
don't count. Only the trajectory that asked first keeps its own, and even that not longer than `HOLD_S` at a time.
Source: https://e2b.dev/docs/sandbox/rate-limits (sandboxes at once, creates per second), both answered with 429.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable

import anyio
import attrs
from e2b import AsyncSandbox, exceptions  # noqa: TID253

from envoi_trace_core.errors import SandboxError
from envoi_trace_core.specs import SandboxRequest
from envoi_trace_e2b.calls import api_params, call, whole_seconds
from envoi_trace_e2b.failures import BUSY
from envoi_trace_e2b.limits import max_lifetime_s
from envoi_trace_e2b.options import E2bOptions
from envoi_trace_e2b.records import Listed, Record, list_ours

FULL = re.compile(r"concurrent|maximum number", re.IGNORECASE)
HOLD_S = 60.0
FIRST_S = 1.0
"""How often the one that goes first asks."""
OTHERS_S = 3.0
CREATE_S = 60.0
"""One create: a template's first sandbox may take long."""


class RefusedError(Exception):
    """E2B has no room now, or wants fewer calls a second.

    Attributes:
        words: E2B's own.
        is_full: Whether a sandbox must end or pause before there is room.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.words = " ".join(str(error).split())[:300]
        self.is_full = isinstance(error, exceptions.RateLimitException) and FULL.search(str(error)) is not None


async def refusable[T](what: str, once: Callable[[], Awaitable[T]], *, sandbox_id: str | None = None) -> T:
    """A call that takes a place: a refusal is told apart, all else is as in `call`.

    Raises:
        RefusedError: E2B refused, and nothing was done.
    """

    async def sorted_once() -> T:
        try:
            return await once()
        except BUSY as error:
            raise RefusedError(error) from error

    try:
        return await call(what, sorted_once, sandbox_id=sandbox_id, try_s=CREATE_S)
    except SandboxError as error:
        if isinstance(error.__cause__, RefusedError):
            raise error.__cause__ from None
        raise


@attrs.define
class Waiting:
    """One sandbox that is waited for."""

    request: SandboxRequest
    options: E2bOptions
    _began: float = attrs.field(factory=time.monotonic, init=False)
    _held_since: float = attrs.field(factory=time.monotonic, init=False)
    _paused: str | None = attrs.field(default=None, init=False)
    """The id of this trajectory's other sandbox, while it gives its place to others."""
    _told: str = attrs.field(default="", init=False)

    async def until[T](self, take: Callable[[], Awaitable[T]]) -> T:
        """Take a place as soon as there is one.

        Raises:
            SandboxError: There was none for `wait_s`.
        """
        while True:
            try:
                await self._wake()
                return await take()
            except RefusedError as error:
                refused = error
            pause_s = await self._give_way() if refused.is_full else FIRST_S
            if time.monotonic() + pause_s - self._began > self.options.wait_s:
                raise SandboxError(
                    f"E2B gave no sandbox within {self.options.wait_s:g} s: {refused.words}",
                    mend="run fewer at once, use --eval-sandbox shared, or end what is left over: "
                    "envoi-trace cleanup --sandbox e2b",
                    retryable=True,
                ) from refused
            self._tell(refused)
            await anyio.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311

    async def _give_way(self) -> float:
        """Give back what others may need; how long to wait then, in seconds."""
        everyone = await list_ours()
        halves = _halves(everyone)
        own = next((each for each in everyone if self._is_own(each.record)), None)
        if own is None:
            return OTHERS_S * (1 + len(halves))
        rank = sum(_order(half) < _order(own) for half in halves)
        if rank == 0 and time.monotonic() - self._held_since < HOLD_S:
            return FIRST_S
        if self._paused is None and own.is_running:
            await self._pause(own.info.sandbox_id)
        return OTHERS_S * (1 + rank)

    def _is_own(self, record: Record) -> bool:
        """Whether it is the agent's sandbox of the trajectory that waits for its other one."""
        is_second = self.request.role == "evaluation"
        return is_second and record.role == "agent" and record.trajectory_id == self.request.trajectory_id

    async def _pause(self, sandbox_id: str) -> None:
        async def once() -> None:
            await AsyncSandbox.pause(sandbox_id, **api_params(CREATE_S))

        await call(f"The sandbox {sandbox_id} could not be paused", once, sandbox_id=sandbox_id, try_s=CREATE_S)
        self._paused = sandbox_id

    async def _wake(self) -> None:
        if self._paused is None:
            return
        sandbox_id = self._paused
        await resume(sandbox_id, self.request.lifetime_s, self.options)
        self._paused = None
        self._held_since = time.monotonic()

    def _tell(self, refused: RefusedError) -> None:
        if self._told != refused.words:
            self._told = refused.words
            more = "; its agent's sandbox is paused meanwhile" if self._paused else ""
            self.request.report(f"waiting for room on E2B, {self.options.wait_s:g} s at most{more}: {refused.words}")


async def resume(sandbox_id: str, lifetime_s: float, options: E2bOptions) -> AsyncSandbox:
    """Connect to a sandbox; one that is paused goes on.

    Raises:
        RefusedError: It is paused, and there is no room for it.
        SandboxLostError: It is gone.
    """
    life_s = whole_seconds(min(lifetime_s, max_lifetime_s(options)))

    async def once() -> AsyncSandbox:
        return await AsyncSandbox.connect(sandbox_id, timeout=life_s, **api_params(CREATE_S))

    return await refusable(f"The E2B sandbox {sandbox_id} could not be resumed", once, sandbox_id=sandbox_id)


def _halves(all_ours: list[Listed]) -> list[Listed]:
    """Agents' sandboxes that wait for another one."""
    paired = {listed.record.trajectory_id for listed in all_ours if listed.record.role == "evaluation"}
    return [
        listed
        for listed in all_ours
        if listed.record.role == "agent" and listed.record.companions and listed.record.trajectory_id not in paired
    ]


def _order(listed: Listed) -> tuple[float, str]:
    """Who asked first goes first."""
    return listed.record.asked_at, listed.record.name
