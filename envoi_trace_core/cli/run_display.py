"""What a run shows while it goes on: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

import attrs

from envoi_trace_core.cli.output import printable, printable_line
from envoi_trace_core.domain.facts import Fact
from envoi_trace_core.run.observer import RunStart
from envoi_trace_core.run.progress import progress_line

if TYPE_CHECKING:
    from rich.live import Live

    from envoi_trace_core.trace.fold import TraceState


@attrs.define(kw_only=True)
class RunDisplay:
    """An observer that prints. Under `json` what would go to stdout goes to stderr."""

    json: bool = False
    quiet: bool = False
    stderr: TextIO = attrs.field(factory=lambda: sys.stderr)
    stdout: TextIO = attrs.field(factory=lambda: sys.stdout)

    _began_at: float = attrs.field(factory=time.monotonic, init=False)
    _max_parts: int = attrs.field(default=0, init=False)
    _started: bool = attrs.field(default=False, init=False)
    _live: Live | None = attrs.field(default=None, init=False)

    def started(self, start: RunStart) -> None:
        """Print the id and the URIs, once over all restarts."""
        self._max_parts = start.max_parts
        if self._started:
            return
        self._started = True
        out = self.stderr if self.json else self.stdout
        print(f"TRAJECTORY_ID: {start.trajectory_id}", file=out, flush=True)
        print(f"trace:  {start.trace_uri}\nbundle: {start.bundle_uri}", file=out, flush=True)
        if start.resumed:
            self.note("goes on with what is recorded")
        if not self.quiet and self.stderr.isatty():
            self._begin_live()

    def note(self, line: str) -> None:
        """Print a line above the live display."""
        self._print(printable(line))

    def fact(self, fact: Fact, state: TraceState) -> None:
        """Show what happened."""
        if self.quiet:
            return
        line = progress_line(fact, state)
        if line is not None:
            self._print(printable_line(line))
        if self._live is not None:
            self._live.update(self._status_line(state))

    def close(self) -> None:
        """Take the live display off the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _begin_live(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live("", console=Console(file=self.stderr), auto_refresh=False, transient=True)
        self._live.start()

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self.stderr, flush=True)

    def _status_line(self, state: TraceState) -> str:
        elapsed_s = int(time.monotonic() - self._began_at)
        words = [
            f"part {state.part_count}/{self._max_parts}",
            f"turn {state.turn_count}",
            f"{elapsed_s // 3600}:{elapsed_s // 60 % 60:02}:{elapsed_s % 60:02}",
            f"solved {state.solved_paths}/{state.total_paths}",
        ]
        if state.total_usage.total:
            words.append(f"{state.total_usage.total:,} tokens")
        if state.total_cost_usd is not None:
            words.append(f"${state.total_cost_usd:.2f}")
        return " · ".join(words)
