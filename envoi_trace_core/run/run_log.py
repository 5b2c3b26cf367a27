"""The run's log: every line that its observer is told, with its time, for `envoi-trace logs` from any terminal."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import attrs

from envoi_trace_core.domain.facts import Fact, TrajectoryEnded
from envoi_trace_core.run.observer import Observer, RunStart
from envoi_trace_core.run.progress import progress_line
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.redact import Redactor


@attrs.frozen(kw_only=True)
class LoggedObserver:
    """Writes down what happens, and tells the observer behind it. No secret gets past it."""

    behind: Observer
    path: Path
    redactor: Redactor

    def started(self, start: RunStart) -> None:
        """The run has begun, or goes on."""
        self._write("-- goes on" if start.resumed else "-- begins")
        self.behind.started(start)

    def note(self, line: str) -> None:
        """Something to read."""
        line = self.redactor.text(line)
        self._write(line)
        self.behind.note(line)

    def fact(self, fact: Fact, state: TraceState) -> None:
        """A fact is durable; it is redacted already."""
        if isinstance(fact, TrajectoryEnded):
            self._write(f"-- {fact.reason}" + (f": {fact.message}" if fact.message else ""))
        elif (line := progress_line(fact, state)) is not None:
            self._write(line)
        self.behind.fact(fact, state)

    def _write(self, line: str) -> None:
        text = " ".join(line.splitlines())
        stamp = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        # One write of whole lines: the log is uploaded up to its size of the moment.
        with suppress(OSError), self.path.open("ab", buffering=0) as file:  # a full disk ends no run here
            file.write(f"{stamp} {text}\n".encode(errors="replace"))
