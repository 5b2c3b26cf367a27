"""E2B's exceptions as ours.

`ServiceBusyException` and `AuthenticationException` are no `SandboxException`, errors of the transport come as httpx's
or as connect-rpc's own, and "not running" is a kind of timeout: so everything is sorted here, once.
"""

from __future__ import annotations

import httpx
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from e2b import exceptions  # noqa: TID253
from e2b.envd.rpc import is_transport_failure  # noqa: TID253

from envoi_trace_core.errors import EnvoiTraceError, SandboxError, SandboxLostError, UsageError
from envoi_trace_e2b.credentials import KEY, MEND

GONE = (exceptions.SandboxNotFoundException, exceptions.SandboxNotRunningException)
BUSY = (exceptions.RateLimitException, exceptions.ServiceBusyException)
MAX_WORDS = 500


def is_gone(error: Exception) -> bool:
    """Whether the sandbox ended, or is paused."""
    return isinstance(error, GONE)


def is_busy(error: Exception) -> bool:
    """Whether the service refused, so that nothing was done and the same call may be made again."""
    return isinstance(error, BUSY) or (isinstance(error, ConnectError) and error.code is Code.RESOURCE_EXHAUSTED)


def is_unsent(error: Exception) -> bool:
    """Whether there was no connection, so that nothing was done."""
    cause = error.__cause__ if isinstance(error, ConnectError | exceptions.SandboxUnreachableException) else error
    if isinstance(cause, ConnectError):
        cause = cause.__cause__
    return isinstance(cause, ConnectionError | httpx.ConnectError | httpx.ConnectTimeout)


def is_transport(error: Exception) -> bool:
    """Whether the network failed, so that nobody knows what was done."""
    if isinstance(error, exceptions.SandboxUnreachableException | httpx.TransportError | OSError):
        return True
    if isinstance(error, exceptions.TimeoutException) and not is_gone(error):
        return True
    return is_transport_failure(error)


def is_passing(error: Exception) -> bool:
    """Whether a call that may be repeated without harm is worth repeating."""
    status = getattr(error, "status_code", None)
    return is_busy(error) or is_transport(error) or (isinstance(status, int) and status >= 500)


def translate(error: Exception, what: str, *, sandbox_id: str | None = None) -> EnvoiTraceError:
    """The error that crosses the protocol.

    Args:
        error: Of the SDK, or of what it is made of.
        what: What could not be done, as a sentence without its end.
        sandbox_id: Of the sandbox that was spoken to; None for E2B's API.
    """
    if isinstance(error, EnvoiTraceError):
        return error
    words = _words(error)
    if isinstance(error, exceptions.AuthenticationException):
        return UsageError(f"E2B refuses the API key in {KEY} ({words})", mend=MEND)
    if is_gone(error):
        return SandboxLostError(f"The E2B sandbox {sandbox_id} has ended: {words}", retryable=True)
    if sandbox_id is not None and is_passing(error):
        return SandboxLostError(f"The E2B sandbox {sandbox_id} can't be reached: {words}", retryable=True)
    if is_transport(error):
        mend = "check the network, and https://status.e2b.dev"
        return SandboxError(f"{what}: E2B can't be reached: {words}", mend=mend, retryable=True)
    return SandboxError(f"{what}: {words}", retryable=is_passing(error))


def _words(error: Exception) -> str:
    text = error.message if isinstance(error, ConnectError) else str(error)
    if not text and isinstance(error, TimeoutError):
        return "there was no answer in time"
    first = " ".join(text.split())[:MAX_WORDS].rstrip(".")
    return first or type(error).__name__
