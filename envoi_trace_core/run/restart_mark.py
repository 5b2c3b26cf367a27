"""What says in the storage that a run which failed waits to go on: whoever finds it later knows that it may."""

from __future__ import annotations

from datetime import datetime

import attrs

from envoi_trace_core.errors import KeyMissingError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.convert_facts import value_from_json, value_to_json
from envoi_trace_core.trace.keys import restart_key


@attrs.frozen(kw_only=True)
class RestartMark:
    """Of one end of a trajectory, as it is stored. A later end is another one: a mark need not be taken away."""

    ended_at: datetime
    """When the trace says that the run ended."""


async def mark_restart(storage: Storage, trajectory_id: str, ended_at: datetime) -> None:
    """Say that a run will go on after an end.

    Raises:
        StorageError: The storage can't be written.
    """
    await storage.put(restart_key(trajectory_id), value_to_json(RestartMark(ended_at=ended_at)).encode())


async def waits_for_restart(storage: Storage, trajectory_id: str, ended_at: datetime) -> bool:
    """Whether a run was to go on after its end of that time. What can't be understood says nothing.

    Raises:
        StorageError: The storage can't be read.
    """
    try:
        mark = value_from_json(await storage.get(restart_key(trajectory_id)), RestartMark)
    except (KeyMissingError, TypeError, ValueError, KeyError):
        return False
    return mark.ended_at == ended_at
