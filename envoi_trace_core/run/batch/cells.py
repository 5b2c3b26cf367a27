"""What a batch is made of: cells of a matrix, trials of each cell, attempts at each trial. Nothing here runs.

An attempt is a trajectory. Its id is made of the batch's name, the cell's, the trial and the attempt, so the same
batch finds again what it has done: `nightly.script.merge_sort.merge_sort.t3`, and `...t3.a2` for a second attempt.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import attrs

from envoi_trace_core.errors import UsageError
from envoi_trace_core.run.config import RunConfig

MAX_NAME_CHARS = 40
MAX_CELL_CHARS = 72
CELL_LABEL = "cell"
"""The label that tells rows of two cells apart which differ in options only."""
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME_CHARS - 1}}}")
_DIGEST_CHARS = 8


@attrs.frozen(kw_only=True)
class Cell:
    """One combination of agent, model, task and environment."""

    name: str
    """Names it in ids and tables; of letters, digits, `.`, `_` and `-`."""
    config: RunConfig
    """Of each of its trials, but for the id, the batch and the trial."""


@attrs.frozen(kw_only=True)
class Trial:
    """One of several equal runs of a cell."""

    cell: Cell
    number: int
    """From 1."""

    @property
    def name(self) -> str:
        """Unique within the batch."""
        return f"{self.cell.name}.t{self.number}"


@attrs.frozen(kw_only=True)
class Batch:
    """Many trajectories under one name."""

    name: str
    cells: Sequence[Cell]
    trials: int = 1
    concurrency: int = 4
    """Trajectories at once."""
    retries: int = 2
    """Further attempts at a trial that failed by no fault of the agent."""
    max_total_cost_usd: float | None = None

    @property
    def prefix(self) -> str:
        """What the ids of its trajectories, and no others, begin with."""
        return f"{self.name}."

    def all_trials(self) -> Iterator[Trial]:
        """The first trial of every cell, then the second of every cell: a batch that is cut short compares all."""
        for number in range(1, self.trials + 1):
            for cell in self.cells:
                yield Trial(cell=cell, number=number)

    def trajectory_id(self, trial: Trial, attempt: int) -> str:
        """The id of an attempt at a trial; the first is 1."""
        again = "" if attempt == 1 else f".a{attempt}"
        return f"{self.prefix}{trial.name}{again}"

    def config(self, trial: Trial, attempt: int) -> RunConfig:
        """What one attempt runs."""
        config = trial.cell.config
        return attrs.evolve(
            config,
            trajectory_id=self.trajectory_id(trial, attempt),
            batch=self.name,
            trial=trial.number,
            labels={CELL_LABEL: trial.cell.name, **config.labels},
        )


def check_batch_name(name: str) -> str:
    """Give the name back when it can stand in the ids of trajectories.

    Raises:
        UsageError: It can't.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name[:80]!r} can't be the name of a batch: the ids of its trajectories begin with it",
            mend=f"use letters, digits, '_' and '-', a letter or digit first, at most {MAX_NAME_CHARS} characters",
        )
    return name


def new_batch_name() -> str:
    """A name that no other batch has; names sort by the second in which they were made."""
    return f"batch-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def cell_name(words: Sequence[str]) -> str:
    """The name of a cell, from what tells it apart; a long one is cut and stays unique by a digest."""
    name = ".".join(_slug(word) for word in words)
    if len(name) <= MAX_CELL_CHARS:
        return name
    digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: MAX_CELL_CHARS - _DIGEST_CHARS - 1].rstrip('.-_')}-{digest}"


def _slug(word: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", word).strip("-_")
    return slug or hashlib.sha256(word.encode()).hexdigest()[:_DIGEST_CHARS]
