"""The exception tree. Nothing else crosses a protocol of this package.

    EnvoiTraceError
    ├── UsageError            wrong use; nothing was started (exit status 2)
    ├── PluginError           a plugin is missing, broken or clashes (exit status 2)
    ├── AgentError            the agent failed
    ├── SandboxError          the sandbox failed
    │   ├── SandboxLostError      it is gone, or can't be reached any more
    │   └── SandboxTimeoutError   a command passed its deadline and was killed
    ├── StorageError          an artifact could not be read or written
    │   ├── KeyMissingError       there is no object under that key
    │   └── ConditionFailedError  a conditional put lost: another writer was there
    ├── HarnessError          the environment or its runtime failed
    ├── TraceFormatError      a file is no trace, is damaged, or is newer than this reader
    └── InterruptedRunError   the user, or a signal, ended the run

Every error says what happened, why, and the command that mends it: the first two are its message, the
last its ``mend``.
"""

from __future__ import annotations


class EnvoiTraceError(Exception):
    """Base of all errors of envoi-trace.

    Attributes:
        message: What happened and why, one or two sentences.
        mend: What the user can do about it, preferably a command; None when nothing helps.
        retryable: Whether the same call may succeed later without any change.
    """

    def __init__(self, message: str, *, mend: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        self.retryable = retryable


class UsageError(EnvoiTraceError):
    """The user asked for something that can't be done; nothing was started."""


class PluginError(EnvoiTraceError):
    """A plugin is missing, broken, or clashes with another."""


class AgentError(EnvoiTraceError):
    """The agent failed: its process died, its model refused, its credentials are wrong."""


class SandboxError(EnvoiTraceError):
    """The sandbox could not be made or did not do what was asked."""


class SandboxLostError(SandboxError):
    """The sandbox is gone, or can't be reached any more."""


class SandboxTimeoutError(SandboxError):
    """A command passed its deadline; its whole process group was killed.

    Attributes:
        stdout: What the command had written before it was killed (may be cut).
        stderr: Likewise.
    """

    def __init__(self, message: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr


class StorageError(EnvoiTraceError):
    """An artifact could not be read or written."""


class KeyMissingError(StorageError):
    """There is no object under that key."""


class ConditionFailedError(StorageError):
    """A conditional put lost: the object is not at the version that the caller expected."""


class HarnessError(EnvoiTraceError):
    """The environment, its setup.sh or its runtime failed (not the submission under test)."""


class TraceFormatError(EnvoiTraceError):
    """A file is no trace, is damaged, or was written by a newer major version."""


class InterruptedRunError(EnvoiTraceError):
    """A signal or `envoi-trace stop` ended the run.

    Attributes:
        exit_status: 130 for SIGINT and stop, 143 for SIGTERM, 129 for SIGHUP.
    """

    def __init__(self, message: str, *, exit_status: int = 130) -> None:
        super().__init__(message)
        self.exit_status = exit_status
