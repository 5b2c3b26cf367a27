"""A run's log as the storage has it: whole once an attempt has ended, in numbered pieces while it goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import attrs

from envoi_trace_core.errors import KeyMissingError, StorageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.keys import log_key, log_pieces_prefix
from envoi_trace_core.trace.lease import is_held

FOLLOW_EVERY_S = 1.0
LAST_LOOKS = 3
"""How often a log is looked at after its run let go: the next attempt may be about to begin."""


@attrs.define
class LogReader:
    """Gives a log in pieces, each byte once."""

    storage: Storage
    trajectory_id: str
    _taken_bytes: int = 0

    async def new(self) -> bytes:
        """What came since the last call.

        Raises:
            StorageError: The storage can't be reached.
        """
        pieces = await self.storage.list(log_pieces_prefix(self.trajectory_id))
        if not pieces:
            return await self._new_of_whole()
        position, found = 0, b""
        for piece in pieces:
            if position + piece.size_bytes > self._taken_bytes:
                try:
                    data = await self.storage.get(piece.key)
                except KeyMissingError:  # solved this very moment: it is one object now
                    return await self._new_of_whole()
                found += data[max(0, self._taken_bytes - position) :]
            position += piece.size_bytes
        self._taken_bytes += len(found)
        return found

    async def _new_of_whole(self) -> bytes:
        info = await self.storage.stat(log_key(self.trajectory_id))
        if info is None or info.size_bytes <= self._taken_bytes:
            return b""
        data = await self.storage.get(log_key(self.trajectory_id), start=self._taken_bytes)
        self._taken_bytes += len(data)
        return data


async def read_log(storage: Storage, trajectory_id: str, *, follow: bool) -> AsyncIterator[str]:
    """The lines of a log; with `follow`, those to come too, until nobody runs the trajectory any more.

    Raises:
        StorageError: The storage can't be reached; while following that is waited for.
    """
    reader = LogReader(storage, trajectory_id)
    rest = ""
    looks_left = LAST_LOOKS
    while True:
        try:
            is_live = follow and await is_held(storage, trajectory_id)
            rest += (await reader.new()).decode(errors="replace")
        except StorageError:
            if not follow:
                raise
            is_live = True
        *lines, rest = rest.split("\n")
        for line in lines:
            yield line
        looks_left = LAST_LOOKS if is_live else looks_left - 1
        if not follow or looks_left <= 0:
            return
        await anyio.sleep(FOLLOW_EVERY_S)
