"""Run something with watchers beside it: a task group that gives our own errors as they are, not in groups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from envoi_trace_core.errors import EnvoiTraceError


async def run_beside[T](main: Callable[[], Awaitable[T]], *watchers: Callable[[], Awaitable[object]]) -> T | None:
    """Run `main`, with `watchers` beside it that are cancelled when it ends.

    A watcher that raises cancels `main`; one that merely returns does not, unless it returns `CANCEL`.

    Returns:
        What `main` gave; None when a watcher cancelled it.

    Raises:
        EnvoiTraceError: The first one that was raised by any of them.
    """
    results: list[T] = []
    failures: list[EnvoiTraceError] = []
    async with anyio.create_task_group() as group:

        async def watch(watcher: Callable[[], Awaitable[object]]) -> None:
            try:
                if await watcher() is CANCEL:
                    group.cancel_scope.cancel()
            except EnvoiTraceError as error:
                failures.append(error)
                group.cancel_scope.cancel()

        for watcher in watchers:
            group.start_soon(watch, watcher)
        try:
            results.append(await main())
        except EnvoiTraceError as error:
            failures.insert(0, error)
        group.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return results[0] if results else None


CANCEL = object()
"""What a watcher returns to cancel the main task."""
