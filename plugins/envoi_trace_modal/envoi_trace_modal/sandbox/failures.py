"""Modal's exceptions as ours.

An error of a sandbox that can't be reached means that the sandbox is lost: the run then looks whether it lives, and
goes on in it or in a new one. All else keeps Modal's own words, in one line.
"""

from __future__ import annotations

import modal.exception as modal_errors  # noqa: TID253

from envoi_trace_core.errors import EnvoiTraceError, SandboxError, SandboxLostError, UsageError
from envoi_trace_modal.sandbox.credentials import MEND

GONE = (modal_errors.NotFoundError, modal_errors.SandboxTerminatedError, modal_errors.SandboxTimeoutError)
BUSY = (modal_errors.ResourceExhaustedError,)
PASSING = (
    *BUSY,
    modal_errors.ServiceError,
    modal_errors.InternalError,
    modal_errors.InternalFailure,
    modal_errors.ConnectionError,
    modal_errors.TimeoutError,
    modal_errors.ClientClosed,
    OSError,  # also TimeoutError
)
MAX_WORDS = 500


def is_busy(error: BaseException) -> bool:
    """Whether Modal wants fewer calls, or has no room."""
    return isinstance(error, BUSY)


def is_gone(error: BaseException) -> bool:
    """Whether the sandbox has ended."""
    # The router's answer for a sandbox that shut down is a refusal, FAILED_PRECONDITION, in these words.
    return isinstance(error, GONE) or "already shut down" in str(error)


def is_passing(error: BaseException) -> bool:
    """Whether a call that may be repeated without harm is worth repeating."""
    return isinstance(error, PASSING) and not is_gone(error)


def translate(error: BaseException, what: str, *, sandbox_id: str | None = None) -> EnvoiTraceError:
    """The error that crosses the protocol.

    Args:
        error: Of the SDK, or of what it is made of.
        what: What could not be done, as a sentence without its end.
        sandbox_id: Of the sandbox that was spoken to; None for Modal's control plane.
    """
    if isinstance(error, EnvoiTraceError):
        return error
    words = one_line(error)
    if isinstance(error, modal_errors.AuthError):
        return UsageError(f"Modal does not let us in: {words}", mend=MEND)
    if isinstance(error, modal_errors.PermissionDeniedError):
        return UsageError(f"Modal does not allow it ({what}): {words}", mend="use a token that may make sandboxes")
    if sandbox_id is not None and is_gone(error):
        return SandboxLostError(f"The Modal sandbox {sandbox_id} has ended: {words}", retryable=True)
    if sandbox_id is not None and is_passing(error):
        return SandboxLostError(f"The Modal sandbox {sandbox_id} can't be reached: {words}", retryable=True)
    if is_busy(error):
        return SandboxError(
            f"{what}: Modal is busy, or the workspace is at its limit: {words}",
            mend="run fewer at once, or end what is left over: envoi-trace cleanup --sandbox modal",
            retryable=True,
        )
    if is_passing(error):
        mend = "see whether this machine reaches https://api.modal.com; https://status.modal.com"
        return SandboxError(f"{what}: Modal can't be reached, or failed: {words}", mend=mend, retryable=True)
    return SandboxError(f"{what}: {words}")


def one_line(error: BaseException) -> str:
    """An error's words in one line, without a full stop."""
    text = " ".join(str(error).split())[:MAX_WORDS].rstrip(".")
    if not text and isinstance(error, TimeoutError):
        return "there was no answer in time"
    return text or type(error).__name__
