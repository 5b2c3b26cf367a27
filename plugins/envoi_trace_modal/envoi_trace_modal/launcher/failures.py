"""What Modal's errors mean for a launch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from envoi_trace_core.errors import EnvoiTraceError, SandboxError, UsageError

MAX_REASON_CHARS = 500


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """No error of the SDK gets out of this block.

    Raises:
        UsageError: The token is wrong or missing, or something was asked for that Modal refuses.
        SandboxError: Modal can't be reached, or failed.
    """
    import modal

    try:
        yield
    except EnvoiTraceError:
        raise
    except modal.exception.AuthError as error:
        raise UsageError(
            f"Modal does not let us in ({doing}): {_reason(error)}", mend="sign in with `modal setup`"
        ) from error
    except modal.exception.PermissionDeniedError as error:
        raise UsageError(
            f"Modal does not allow it ({doing}): {_reason(error)}", mend="use a token that may deploy apps"
        ) from error
    except modal.exception.ImageBuildError as error:
        raise SandboxError(
            f"the image of the orchestrator can't be built: {_reason(error)}",
            mend="modal app logs shows the build; --launcher-opt index_url= names an index that has these versions",
        ) from error
    except (modal.exception.InvalidError, modal.exception.NotFoundError, ValueError, TypeError) as error:
        raise UsageError(
            f"Modal refuses it ({doing}): {_reason(error)}", mend="envoi-trace plugins show modal lists the options"
        ) from error
    except Exception as error:
        raise SandboxError(
            f"Modal failed ({doing}): {_reason(error)}", mend="try again; https://status.modal.com", retryable=True
        ) from error


def unreachable(doing: str, waited_s: float) -> SandboxError:
    """Modal did not answer at all."""
    return SandboxError(
        f"Modal did not answer within {waited_s:.0f} s ({doing})",
        mend="see whether this machine reaches https://api.modal.com, then try again",
        retryable=True,
    )


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:MAX_REASON_CHARS]
