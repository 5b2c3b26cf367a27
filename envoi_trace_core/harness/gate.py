"""How many runs of the tests go on at once, and which comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import attrs


@attrs.define
class TestGate:
    """A bound that the agent's calls and the background evaluation share; the agent, which waits, goes first."""

    __test__ = False  # pytest: not a test class

    limit: int = attrs.field(validator=attrs.validators.ge(1))
    _running: int = attrs.field(default=0, init=False)
    _first: deque[anyio.Event] = attrs.field(factory=deque, init=False)
    _others: deque[anyio.Event] = attrs.field(factory=deque, init=False)

    @asynccontextmanager
    async def slot(self, *, first: bool) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        await self._enter(self._first if first else self._others)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, queue: deque[anyio.Event]) -> None:
        if self._running < self.limit:
            self._running += 1
            return
        turn = anyio.Event()
        queue.append(turn)
        try:
            await turn.wait()  # the slot is handed over, so that nobody slips in between
        except BaseException:
            if turn.is_set():
                self._leave()
            else:
                queue.remove(turn)
            raise

    def _leave(self) -> None:
        for queue in (self._first, self._others):
            if queue:
                queue.popleft().set()
                return
        self._running -= 1
