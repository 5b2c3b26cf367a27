"""Calls of Modal's SDK, each bounded in time, and repeated while what is wrong may pass."""

from __future__ import annotations

import importlib.util
import itertools
import os
import random
import time
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from envoi_trace_core.errors import UsageError

PATIENCE_S = 23.0
"""How long a call is repeated when Modal can't be reached: an unreachable one must fail within 30 s."""
THROTTLE_S = 20
"""How long the SDK itself waits when the server asks for patience; without a bound it waits for ever."""
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 4.0
BUSY_PAUSE_S = 10.0


def sdk() -> None:
    """Import the SDK for the first time, which reads its settings.

    Raises:
        UsageError: They are broken, or name a proxy that the SDK can't use.
    """
    os.environ.setdefault("MODAL_MAX_THROTTLE_WAIT", str(THROTTLE_S))
    try:
        import modal  # noqa: F401
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UsageError(
            f"Modal's SDK can't be used: {text}", mend="mend ~/.modal.toml, or write it anew: modal setup"
        ) from error
    _check_proxy()


def _check_proxy() -> None:
    """Without python-socks the SDK tries to connect until its time is over, and then blames the network."""
    from modal.config import config

    server = urllib.parse.urlsplit(str(config.get("server_url")).partition(",")[0])
    proxies = urllib.request.getproxies()
    is_used = proxies.get(server.scheme) or proxies.get("all")
    if not is_used or config.get("disable_api_proxy") or urllib.request.proxy_bypass(server.hostname or ""):
        return
    if importlib.util.find_spec("python_socks") is None:
        raise UsageError(
            "a proxy is set, and Modal's SDK needs python-socks to use it",
            mend='pip install "modal[api-proxy-support]"; MODAL_DISABLE_API_PROXY=1 goes around the proxy',
        )


async def call[T](
    what: str,
    once: Callable[[], Awaitable[T]],
    *,
    sandbox_id: str | None = None,
    patience_s: float | None = None,
    busy_s: float = 0.0,
    report: Callable[[str], None] | None = None,
) -> T:
    """Do something until it is done, or there is no patience left.

    Args:
        what: What it is, for the error: a sentence without its end.
        once: One try; it must do no harm twice.
        sandbox_id: Of the sandbox that it is about.
        patience_s: For all tries; None for `PATIENCE_S`.
        busy_s: Patience with a Modal that is reached and asks for it, when that is longer.
        report: Told once that there is a wait.

    Raises:
        SandboxError: It could not be done; `retryable` says whether it was the network or the service.
        SandboxLostError: The sandbox is gone.
        UsageError: The token is missing or refused.
    """
    sdk()
    from envoi_trace_modal.sandbox.failures import is_busy, is_passing, one_line, translate

    began = time.monotonic()
    calm_s = PATIENCE_S if patience_s is None else patience_s
    answered = began
    for attempt in itertools.count():
        try:
            with anyio.fail_after(max(0.1, answered + calm_s - time.monotonic())):
                return await once()
        except Exception as error:
            busy = is_busy(error)
            pause_s = pause(attempt, BUSY_PAUSE_S if busy else MAX_PAUSE_S)
            now = time.monotonic()
            deadline = began + max(calm_s, busy_s) if busy else answered + calm_s
            if not is_passing(error) or now + pause_s >= deadline:
                raise translate(error, what, sandbox_id=sandbox_id) from error
            if busy:
                answered = now + pause_s
                if report is not None:
                    report(f"Modal asks for patience; waiting for {busy_s:g} s at most: {one_line(error)}")
                    report = None
        await anyio.sleep(pause_s)
    raise AssertionError("it counts for ever")


async def quietly(once: Callable[[], Awaitable[object]], *, timeout_s: float) -> None:
    """A clean-up: bounded, done also when the caller is cancelled, and silent, as an error before it counts more."""
    with anyio.move_on_after(timeout_s, shield=True), suppress(Exception):
        await once()


def pause(attempt: int, longest_s: float = MAX_PAUSE_S) -> float:
    """Doubled with each try, with jitter so that many runs do not come back at once; seconds."""
    return min(FIRST_PAUSE_S * 2.0 ** min(attempt, 10), longest_s) * random.uniform(0.7, 1.3)  # noqa: S311
