"""Calls of E2B's API, each bounded in time, and repeated while what is wrong may pass."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from envoi_trace_e2b.credentials import api_key
from envoi_trace_e2b.failures import is_passing, translate

PATIENCE_S = 25.0
"""How long a call is repeated when E2B can't be reached or is busy: an unreachable API must fail within 30 s."""
REQUEST_S = 10.0
"""One try of a call that takes no time."""
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 4.0


def api_params(request_timeout_s: float = REQUEST_S) -> dict[str, Any]:
    """What every call of the SDK is given. Its own repetition is off: it tells nothing of what it waits for.

    Raises:
        UsageError: There is no API key.
    """
    return {"api_key": api_key(), "request_timeout": request_timeout_s, "retries": 0}


async def call[T](
    what: str,
    once: Callable[[], Awaitable[T]],
    *,
    sandbox_id: str | None = None,
    again: Callable[[Exception], bool] = is_passing,
    try_s: float | None = None,
) -> T:
    """Do something until it is done, or `PATIENCE_S` are over.

    Args:
        what: What it is, for the error: a sentence without its end.
        once: One try.
        sandbox_id: Of the sandbox that it is about.
        again: Whether to try again after an error; `is_passing` is for what may be done twice without harm.
        try_s: How long one try may take; None for what is left of `PATIENCE_S`.

    Raises:
        SandboxError: It could not be done; `retryable` says whether it was the network or the service.
        SandboxLostError: The sandbox is gone.
        UsageError: The key is missing or refused.
    """
    deadline = time.monotonic() + PATIENCE_S
    for attempt in itertools.count():
        try:
            with anyio.fail_after(max(0.1, deadline - time.monotonic()) if try_s is None else try_s):
                return await once()
        except Exception as error:
            pause_s = pause(attempt)
            if not again(error) or time.monotonic() + pause_s >= deadline:
                raise translate(error, what, sandbox_id=sandbox_id) from error
        await anyio.sleep(pause_s)
    raise AssertionError("it counts for ever")


def pause(attempt: int) -> float:
    """Doubled with each try, with jitter so that many runs do not come back at once; seconds."""
    return min(FIRST_PAUSE_S * 2.0 ** min(attempt, 10), MAX_PAUSE_S) * random.uniform(0.7, 1.3)  # noqa: S311


def whole_seconds(seconds: float) -> int:
    """As the API takes them: at least one, rounded down so that no bound is passed."""
    return max(1, math.floor(seconds))
