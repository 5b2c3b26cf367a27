"""One operation of the storage: a blocking call in a thread that ends in time, and when its caller is cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import attrs

CANCEL_GRACE_S = 10.0
"""How long a cancelled operation may take to clean up; then its thread is left to end by its own bounds."""
OVERRUN_S = 4.0
"""How long an operation may outlive its bound in an attempt that was sent just before."""

_current = threading.local()


class OperationCancelledError(Exception):
    """The operation's caller was cancelled."""


class OperationTimeoutError(Exception):
    """The operation passed its bound."""


@attrs.define
class Operation:
    """Bounds everything that is sent on its behalf, retries included."""

    bound_s: float
    deadline: float = attrs.field(init=False)
    attempts: int = 0
    """Requests that were sent, or begun to be sent."""
    last_failure: str = ""
    """Of the newest attempt that failed, for the error."""
    _cancelled: threading.Event = attrs.field(factory=threading.Event)

    def __attrs_post_init__(self) -> None:
        self.deadline = time.monotonic() + self.bound_s

    def cancel(self) -> None:
        """Let nothing more be sent."""
        self._cancelled.set()

    def check(self) -> None:
        """Return while the operation may go on.

        Raises:
            OperationCancelledError: Its caller is gone.
            OperationTimeoutError: Its time is up.
        """
        if self._cancelled.is_set():
            raise OperationCancelledError
        if time.monotonic() >= self.deadline:
            raise OperationTimeoutError(self.timeout_text)

    def pause(self, seconds: float) -> None:
        """Wait, unless the operation is over."""
        self._cancelled.wait(min(seconds, max(0.0, self.deadline - time.monotonic())))
        self.check()

    def perform[T](self, call: Callable[[Operation], T]) -> T:
        """Run a blocking call in this thread, on this operation's account."""
        outer: Operation | None = getattr(_current, "operation", None)
        _current.operation = self
        try:
            self.check()
            return call(self)
        finally:
            _current.operation = outer

    @property
    def timeout_text(self) -> str:
        """What to say when the time is up."""
        why = f" ({self.last_failure})" if self.last_failure else ""
        return f"no success in {self.bound_s:.0f} s{why}"


def watch(client: Any) -> None:
    """Count and bound every attempt that a boto3 client makes, its own retries too."""
    client.meta.events.register("before-send.s3", _before_send)
    client.meta.events.register("response-received.s3", _response_received)


def _before_send(**_event: Any) -> None:
    operation: Operation | None = getattr(_current, "operation", None)
    if operation is not None:
        operation.check()
        operation.attempts += 1


def _response_received(
    parsed_response: dict[str, Any] | None = None, exception: Exception | None = None, **_event: Any
) -> None:
    operation: Operation | None = getattr(_current, "operation", None)
    if operation is None:
        return
    if exception is not None:
        operation.last_failure = f"{type(exception).__name__}"
    elif parsed_response and "Error" in parsed_response:
        operation.last_failure = f"{parsed_response['Error'].get('Code', 'error')!s:.60}"


async def run_bounded[T](
    bound_s: float, call: Callable[[Operation], T], *, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """Run a blocking call in a thread; it gets the operation that bounds it.

    When the caller is cancelled, the call is told, and may clean up for `CANCEL_GRACE_S`.

    Raises:
        OperationTimeoutError: It was not done in time.
    """
    operation = Operation(bound_s)
    scope = anyio.CancelScope(shield=True, deadline=anyio.current_time() + bound_s + OVERRUN_S)
    outcome: list[T] = []
    failure: list[Exception] = []
    finished = anyio.Event()

    async def work() -> None:
        try:
            with scope:
                outcome.append(
                    await anyio.to_thread.run_sync(operation.perform, call, abandon_on_cancel=True, limiter=limiter)
                )
        except Exception as error:  # noqa: BLE001 - raised below, not wrapped into a group
            failure.append(error)
        finally:
            finished.set()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        try:
            await finished.wait()
        except anyio.get_cancelled_exc_class():
            operation.cancel()
            scope.deadline = min(scope.deadline, anyio.current_time() + CANCEL_GRACE_S)
            raise
    if outcome:
        return outcome[0]
    operation.cancel()
    raise failure[0] if failure else OperationTimeoutError(operation.timeout_text)
