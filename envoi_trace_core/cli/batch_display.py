"""What a batch shows while it goes on: a live table on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

import anyio
import attrs

from envoi_trace_core.cli.batch_report import HEAD, RIGHT, cell_words, result_words, total_of
from envoi_trace_core.cli.output import duration, printable
from envoi_trace_core.run.batch.cells import Batch
from envoi_trace_core.run.batch.progress import CellProgress, Progress
from envoi_trace_core.run.batch.results import TrialResult

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

REFRESH_S = 0.25
ROWS_AROUND = 6
"""Lines of the live table that are no cell: its head, the total, what is left out, and some room."""


@attrs.define(kw_only=True)
class BatchDisplay:
    """An observer that prints. Under `json` what would go to stdout goes to stderr."""

    batch: Batch
    json: bool = False
    quiet: bool = False
    stderr: TextIO = attrs.field(factory=lambda: sys.stderr)
    stdout: TextIO = attrs.field(factory=lambda: sys.stdout)
    progress: Progress = attrs.field(init=False)

    _began_at: float = attrs.field(factory=time.monotonic, init=False)
    _live: Live | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.progress = Progress.of(self.batch)

    def begin(self) -> None:
        """Print the batch's name, and begin the table."""
        out = self.stderr if self.json else self.stdout
        print(f"BATCH: {self.batch.name}", file=out, flush=True)
        total = len(self.batch.cells) * self.batch.trials
        at_once = min(self.batch.concurrency, total)
        cells = f" ({len(self.batch.cells)} cells)" if len(self.batch.cells) > 1 else ""
        if self.quiet:
            return
        self._print(f"{total} trajectories{cells}, {at_once} at once")
        if self.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live("", console=Console(file=self.stderr), auto_refresh=False, transient=True)
            self._live.start()

    async def animate(self) -> None:
        """Bring the table up to date now and then, until cancelled."""
        while self._live is not None:
            self._live.update(self._table(self._live.console.height), refresh=True)
            await anyio.sleep(REFRESH_S)

    def close(self) -> None:
        """Take the table off the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    # -- what it is told ----------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """A line for the person who watches."""
        self._print(line)

    def started(self, trajectory_id: str, *, goes_on: bool) -> None:
        """Say so, where there is no table."""
        if not self.quiet and self._live is None:
            self._print(f"{trajectory_id}: {'goes on' if goes_on else 'begins'}")

    def note(self, trajectory_id: str, line: str) -> None:
        """Something to read, with the trajectory that says it."""
        if not self.quiet:
            self._print(f"{trajectory_id}: {line}")

    def ended(self, result: TrialResult) -> None:
        """A line a trial that ran; the others are counted at the end."""
        if self.quiet or result.before or result.status == "not started":
            return
        total = total_of(self.progress)
        self._print(f"{result_words(result)} ({total.ended + total.left} of {total.trials})")

    # -- how it looks -------------------------------------------------------------------------------

    def _print(self, line: str) -> None:
        line = printable(line)
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self.stderr, flush=True)

    def _table(self, height: int) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for index, title in enumerate(HEAD):
            table.add_column(title, justify="right" if index in RIGHT else "left", no_wrap=True)
        shown = self._shown(max(1, height - ROWS_AROUND))
        for cell in shown:
            table.add_row(*(Text(word) for word in cell_words(cell)))
        hidden = len(self.progress.cells) - len(shown)
        if hidden:
            table.add_row(Text(f"and {hidden} more", style="dim"))
        elapsed = duration(time.monotonic() - self._began_at)
        total = cell_words(total_of(self.progress), name=f"{self.batch.name}, {elapsed}")
        table.add_row(*(Text(word, style="bold") for word in total))
        return table

    def _shown(self, limit: int) -> list[CellProgress]:
        """All cells if they fit; else those that run, then those that wait."""
        cells = list(self.progress.cells.values())
        if len(cells) <= limit:
            return cells
        return sorted(cells, key=lambda cell: (not cell.running, not cell.waiting))[:limit]
