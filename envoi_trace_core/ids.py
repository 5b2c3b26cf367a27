"""Trajectory ids: made here, or given by the user. They become file names and object keys."""

from __future__ import annotations

import re
import secrets
import time
import uuid

from envoi_trace_core.errors import UsageError

MAX_ID_CHARS = 128
_SAFE_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_ID_CHARS - 1}}}")


def new_trajectory_id() -> str:
    """A UUID of version 7: ids sort by the time at which they were made (RFC 9562, section 5.7).

    The twelve bits after the milliseconds hold their fraction (method 3 of section 6.2), so that ids made
    in one millisecond sort too.
    """
    now_ns = time.time_ns()
    milliseconds, rest_ns = divmod(now_ns, 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def check_trajectory_id(trajectory_id: str) -> str:
    """Give the id back when it is safe as a file name and as an object key.

    Raises:
        UsageError: It is not.
    """
    if _SAFE_ID.fullmatch(trajectory_id) is None:
        raise UsageError(
            f"{trajectory_id[:80]!r} can't be a trajectory id: it names files and objects",
            mend=f"use letters, digits, '.', '_' and '-', a letter or digit first, at most {MAX_ID_CHARS} characters",
        )
    return trajectory_id
