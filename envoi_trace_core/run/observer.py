"""Whoever watches a run: the live display, a test, nobody."""

from __future__ import annotations

from typing import Protocol

import attrs

from envoi_trace_core.domain.facts import Fact
from envoi_trace_core.trace.fold import TraceState


@attrs.frozen(kw_only=True)
class RunStart:
    """What is known when a run starts."""

    trajectory_id: str
    trace_uri: str
    bundle_uri: str
    max_parts: int
    resumed: bool


class Observer(Protocol):
    """Told what happens, as it happens. Its methods must not wait and must not raise."""

    def started(self, start: RunStart) -> None:
        """The run has its lease: artifacts will stand at these URIs."""
        ...

    def note(self, line: str) -> None:
        """Something that the user should read: a warning, an install that takes long."""
        ...

    def fact(self, fact: Fact, state: TraceState) -> None:
        """A fact is durable; `state` has it already."""
        ...


class SilentObserver:
    """Watches nothing."""

    def started(self, start: RunStart) -> None:
        """Ignored."""

    def note(self, line: str) -> None:
        """Ignored."""

    def fact(self, fact: Fact, state: TraceState) -> None:
        """Ignored."""
