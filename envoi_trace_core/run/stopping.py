"""The other end of `stop_requests.py`: ask a run to stop, from anywhere, and see that it did."""

from __future__ import annotations

import time
from typing import Literal

import anyio

from envoi_trace_core.errors import KeyMissingError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.run.stop_requests import POLL_INTERVAL_S, ask_to_stop, is_taken, withdraw
from envoi_trace_core.trace.keys import trace_key
from envoi_trace_core.trace.lease import is_held
from envoi_trace_core.trace.reader import read_header

NOBODY_S = 4 * POLL_INTERVAL_S
"""A request that nobody took for so long, though nobody holds the lease, has no reader."""
LOOK_EVERY_S = 0.5

Stopped = Literal["stopped", "was not running", "still saving", "did not answer"]


async def stop_run(storage: Storage, trajectory_id: str, *, timeout_s: float) -> Stopped:
    """Ask whoever runs a trajectory to save it and end, and wait until that is done.

    Raises:
        StorageError: The storage can't be reached.
    """
    if not await is_held(storage, trajectory_id) and await _has_ended_for_good(storage, trajectory_id):
        return "was not running"
    await ask_to_stop(storage, trajectory_id)
    began_at = time.monotonic()
    while (waited_s := time.monotonic() - began_at) < timeout_s:
        await anyio.sleep(LOOK_EVERY_S)
        held = await is_held(storage, trajectory_id)
        taken = await is_taken(storage, trajectory_id)
        if taken and not held:
            return "stopped"
        # Between two attempts of a run nobody holds it, and it still looks for requests.
        if not taken and not held and waited_s > NOBODY_S:
            await withdraw(storage, trajectory_id)
            return "was not running"
    if await is_taken(storage, trajectory_id):
        return "still saving"
    await withdraw(storage, trajectory_id)
    return "did not answer"


async def _has_ended_for_good(storage: Storage, trajectory_id: str) -> bool:
    """Whether no attempt can follow by itself."""
    try:
        header = await read_header(storage, trace_key(trajectory_id))
    except KeyMissingError:
        return False
    mendable = ("agent_error", "envoi_error", "infrastructure_error", "timeout")
    return header.end is not None and header.end.reason not in mendable
