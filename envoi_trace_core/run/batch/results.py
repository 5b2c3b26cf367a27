"""How trials and a whole batch ended, and what the exit status follows from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import attrs

from envoi_trace_core.domain.parts import SessionEndReason
from envoi_trace_core.run.outcome import EXIT_BELOW_FAIL_UNDER, EXIT_STATUS, EXIT_UNSAVED, RunOutcome

RETRIED: frozenset[SessionEndReason] = frozenset({"infrastructure_error", "envoi_error"})
"""How an attempt ends that says nothing of the agent: it is made again. An agent's failure is a result."""
EXIT_INTERRUPTED = 130
EXIT_USAGE = 2

TrialStatus = Literal["ended", "interrupted", "detached", "held", "refused", "not started"]
"""`ended`: for good, well or badly. `detached`: handed over to a launcher. `held`: somebody else runs it."""


@attrs.frozen(kw_only=True)
class Attempt:
    """One trajectory of a trial, as far as a table needs it."""

    trajectory_id: str
    number: int
    reason: SessionEndReason | None
    """None while it is unfinished."""
    message: str | None = None
    parts: int = 0
    turns: int = 0
    solved_paths: int = 0
    total_paths: int = 0
    best_share: float = 0.0
    cost_usd: float | None = None
    is_unsaved: bool = False
    """Whether artifacts could not be uploaded."""

    @property
    def is_retried(self) -> bool:
        """Whether it failed by no fault of the agent."""
        return self.reason in RETRIED

    @classmethod
    def of(cls, outcome: RunOutcome, number: int) -> Attempt:
        """As a run's outcome tells it."""
        return cls(
            trajectory_id=outcome.trajectory_id,
            number=number,
            reason=outcome.reason,
            message=outcome.message,
            parts=outcome.parts,
            turns=outcome.turns,
            solved_paths=outcome.solved_paths,
            total_paths=outcome.total_paths,
            best_share=outcome.best_share,
            cost_usd=outcome.cost_usd,
            is_unsaved=bool(outcome.unsaved),
        )


@attrs.frozen(kw_only=True)
class TrialResult:
    """How a trial stands when the command ends."""

    cell: str
    trial: int
    status: TrialStatus
    attempts: tuple[Attempt, ...] = ()
    """All of them, those of earlier commands too."""
    message: str | None = None
    """Why it was refused or not started."""
    before: bool = False
    """Whether it had ended before this command."""

    @property
    def last(self) -> Attempt | None:
        """The attempt that counts."""
        return self.attempts[-1] if self.attempts else None

    @property
    def is_solved(self) -> bool:
        """Whether it ended so."""
        return self.last is not None and self.last.reason == "solved"

    @property
    def is_failed(self) -> bool:
        """Whether it ended, and not by itself."""
        return self.status == "ended" and self.last is not None and self.last.reason in EXIT_STATUS

    @property
    def infrastructure_failures(self) -> int:
        """Attempts that failed by no fault of the agent."""
        return sum(attempt.is_retried for attempt in self.attempts)

    @property
    def cost_usd(self) -> float | None:
        """Over all attempts; None when no cost is known."""
        known = [attempt.cost_usd for attempt in self.attempts if attempt.cost_usd is not None]
        return sum(known) if known else None


@attrs.frozen(kw_only=True)
class BatchResult:
    """How a batch stands when the command ends."""

    name: str
    trials: Sequence[TrialResult]
    """In the order of the matrix: cell by cell."""
    interrupted_status: int | None = None
    """The exit status of the signal that ended the command."""

    @property
    def cost_usd(self) -> float | None:
        """Over all attempts; None when no cost is known."""
        known = [trial.cost_usd for trial in self.trials if trial.cost_usd is not None]
        return sum(known) if known else None

    def count(self, *statuses: TrialStatus) -> int:
        """Trials of these statuses."""
        return sum(trial.status in statuses for trial in self.trials)

    def exit_status(self, *, fail_under: float | None = None) -> int:
        """The worst of all trials; the first of these that any trial calls for.

        130, 143 or 129 interrupted; 5 infrastructure; 4 the environment; 3 the agent; 1 artifacts that were not
        uploaded, trials that another process runs, or that could not be run (2 when none could); 6 a trial below
        `fail_under`. Trials that did not start because the total cost budget is spent are no failure, as a spent
        budget is none of a single run.
        """
        if self.interrupted_status is not None:
            return self.interrupted_status
        ended = [trial.last.reason for trial in self.trials if trial.status == "ended" and trial.last is not None]
        statuses = {EXIT_STATUS[reason] for reason in ended if reason in EXIT_STATUS}
        if self.count("interrupted"):
            return EXIT_INTERRUPTED
        if statuses:
            return max(statuses)
        refused = self.count("refused")
        if refused:
            return EXIT_USAGE if refused == len(self.trials) else EXIT_UNSAVED
        if self.count("held"):
            return EXIT_UNSAVED
        if any(attempt.is_unsaved for trial in self.trials for attempt in trial.attempts):
            return EXIT_UNSAVED
        if fail_under is not None and any(share < fail_under for share in _shares(self.trials)):
            return EXIT_BELOW_FAIL_UNDER
        return 0


def _shares(trials: Iterable[TrialResult]) -> list[float]:
    return [trial.last.best_share for trial in trials if trial.status == "ended" and trial.last is not None]
