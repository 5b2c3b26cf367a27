"""The API key."""

from __future__ import annotations

import os
from collections.abc import Mapping

from envoi_trace_core.errors import UsageError

KEY = "E2B_API_KEY"
MEND = f"export {KEY}=..., a key of https://e2b.dev/dashboard?tab=keys"


def api_key() -> str:
    """The key.

    Raises:
        UsageError: There is none.
    """
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UsageError(f"E2B needs an API key, and {KEY} is not set", mend=MEND)
    return key


def known_secrets() -> Mapping[str, str]:
    """What must be redacted from all that is written.

    Raises:
        UsageError: There is no key, so nothing can be started.
    """
    return {KEY: api_key()}
