"""Run a coding agent in a sandbox, record every action, keep the repository at each one, and test it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envoi_trace_core.trace.opening import open_trace

__all__ = ["open_trace"]


def __getattr__(name: str) -> Any:
    """Import what a script uses only when it does: it costs what a command line should not wait for."""
    if name == "open_trace":
        from envoi_trace_core.trace.opening import open_trace

        return open_trace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
