"""`envoi-trace stop` reaches a run through its storage: the run that takes a request removes it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import anyio
import attrs

from envoi_trace_core.errors import KeyMissingError, StorageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.run.stop import StopRequest, StopSignal
from envoi_trace_core.trace.convert_facts import value_from_json, value_to_json
from envoi_trace_core.trace.keys import stop_key

POLL_INTERVAL_S = 2.0
STALENESS_S = 60.0
"""A request that is older was for a run that is gone."""


@attrs.frozen(kw_only=True)
class StopAsked:
    """A request, as it is stored."""

    by: str
    at: datetime


async def ask_to_stop(storage: Storage, trajectory_id: str) -> None:
    """Leave a request for whoever runs the trajectory.

    Raises:
        StorageError: The storage can't be written.
    """
    asked = StopAsked(by=f"process {os.getpid()} on {socket.gethostname()}", at=datetime.now(UTC))
    await storage.put(stop_key(trajectory_id), value_to_json(asked).encode())


async def is_taken(storage: Storage, trajectory_id: str) -> bool:
    """Whether no request waits any more."""
    return await storage.stat(stop_key(trajectory_id)) is None


async def withdraw(storage: Storage, trajectory_id: str) -> None:
    """Take a request back."""
    await storage.delete(stop_key(trajectory_id))


async def forget_old_request(storage: Storage, trajectory_id: str) -> None:
    """Before a run begins: take away what was meant for an earlier one."""
    asked = await _read(storage, trajectory_id)
    if asked is not None and abs(datetime.now(UTC) - asked.at) > timedelta(seconds=STALENESS_S):
        await withdraw(storage, trajectory_id)


async def end_when_requested(storage: Storage, trajectory_id: str, stop: StopSignal) -> None:
    """Watch for a request; the run that notices it ends as by Ctrl-C. A store that is down is asked again."""
    while True:
        with suppress(StorageError):
            asked = await _read(storage, trajectory_id)
            if asked is not None:
                await withdraw(storage, trajectory_id)  # first: asking may end the task that this runs in
                message = f"ended by `envoi-trace stop` ({asked.by})"
                stop.ask(StopRequest(reason="interrupted", message=message, exit_status=130))
                return
        await anyio.sleep(POLL_INTERVAL_S)


async def _read(storage: Storage, trajectory_id: str) -> StopAsked | None:
    key = stop_key(trajectory_id)
    if await storage.stat(key) is None:
        return None
    try:
        return value_from_json(await storage.get(key), StopAsked)
    except KeyMissingError:
        return None
    except (TypeError, ValueError, KeyError):
        return StopAsked(by="an unreadable request", at=datetime.now(UTC))
