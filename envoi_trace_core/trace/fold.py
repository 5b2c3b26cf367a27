"""The fold: facts in, rows and totals out. Pure, deterministic, and as cheap at part 10,000 as at part 10."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from envoi_trace_core.domain.facts import (
    CallRecorded,
    CallsClaimed,
    EvaluationRecorded,
    EventsUnparsed,
    Fact,
    PartRecorded,
    SessionBegun,
    TrajectoryBegun,
    TrajectoryEnded,
    TurnBegun,
    TurnEnded,
    UsageRecorded,
)
from envoi_trace_core.domain.parts import EnvoiCall, Evaluation, TokenUsage, Trajectory
from envoi_trace_core.domain.solving import has_passed, is_solved
from envoi_trace_core.errors import TraceFormatError
from envoi_trace_core.trace.rows import RecordedPart, Snapshot, TestingState, TraceRow, TraceSummary
from envoi_trace_core.trace.testing_timeline import CALLS, EVALUATION, Moment, TestingTimeline, all_failing

_BUILD_FAILED_STATUS = 422


@attrs.frozen(kw_only=True)
class Turn:
    """A turn, as far as it went."""

    turn: int
    session_id: str
    prompt: str
    began_at: datetime
    began_after_event: int
    """Index of the newest native event of earlier turns."""
    ended_at: datetime | None = None
    interrupted: bool = False


@attrs.define
class TraceState:
    """All that the facts so far say. `apply` them in the order of the journal."""

    trajectory: Trajectory | None = None
    initial_commit: str | None = None
    end: TrajectoryEnded | None = None
    """None while the run goes on, or when it died."""
    version: int = 0
    """How many facts were applied."""
    sessions: list[SessionBegun] = attrs.field(factory=list)
    """Every beginning, a restart of the orchestrator included."""
    turns: dict[int, Turn] = attrs.field(factory=dict)
    evaluations: dict[str, Evaluation] = attrs.field(factory=dict)
    """Commit to its newest evaluation."""
    commits: dict[str, int] = attrs.field(factory=dict)
    """Commit to the part that made it, in the order in which they were made."""
    total_usage: TokenUsage = TokenUsage()
    total_cost_usd: float | None = None
    best_share: float = 0.0
    """The best share of passed tests that any evaluated commit reached, 0 to 1."""
    solved_commit: str | None = None
    """The first commit on which every test path passed."""
    last_recorded: tuple[int, int] | None = None
    """The highest (event index, draft ordinal) that a fact came from."""

    _parts: list[RecordedPart] = attrs.field(factory=list)
    _index_of_part: dict[int, int] = attrs.field(factory=dict)
    _states: list[TestingState] = attrs.field(factory=list)
    """Of the rows that are settled: a prefix of all rows."""
    _rows: list[TraceRow] = attrs.field(factory=list)
    """Likewise."""
    _timeline: TestingTimeline = attrs.field(factory=TestingTimeline)
    _unclaimed: dict[str, CallRecorded] = attrs.field(factory=dict)
    _claimed: set[str] = attrs.field(factory=set)
    _unparsed: set[int] = attrs.field(factory=set)

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> TraceState:
        """The fold of all facts from the beginning."""
        state = cls()
        for fact in facts:
            state.apply(fact)
        return state

    def apply(self, fact: Fact) -> None:
        """Take in one fact. What refers to a part that is not there (a damaged journal) counts in totals only."""
        _HANDLERS[type(fact)](self, fact)
        self.version += 1

    # -- what it says -----------------------------------------------------------------------------

    @property
    def rows(self) -> Sequence[TraceRow]:
        """One a part. Not to be changed, and of this moment only."""
        self._settle()
        return self._rows

    @property
    def part_count(self) -> int:
        """The number of the newest part."""
        return self._parts[-1].part.part if self._parts else 0

    @property
    def turn_count(self) -> int:
        """The number of the newest turn."""
        return max(self.turns, default=0)

    @property
    def open_turn(self) -> int | None:
        """The newest turn, if it did not end."""
        newest = self.turns.get(self.turn_count)
        return newest.turn if newest is not None and newest.ended_at is None else None

    @property
    def test_paths(self) -> tuple[str, ...]:
        """The leaf paths of the environment's schema that count for `solved`."""
        return self._timeline.test_paths

    @property
    def solved_paths(self) -> int:
        """Paths whose newest result passes, after the newest part."""
        return self._timeline.passing_now

    @property
    def total_paths(self) -> int:
        """Test paths of the environment."""
        return len(self.test_paths)

    @property
    def is_solved(self) -> bool:
        """Whether every path passed on one commit."""
        return self.solved_commit is not None

    @property
    def unclaimed_calls(self) -> Sequence[EnvoiCall]:
        """Test calls that ended and that no part holds yet, oldest first."""
        return tuple(fact.call for fact in self._unclaimed.values())

    @property
    def unclaimed_answers(self) -> Sequence[CallRecorded]:
        """The same calls with their answers, which the agent may not have yet."""
        return tuple(self._unclaimed.values())

    @property
    def unparsed_events(self) -> int:
        """Native events of which no parser could make anything."""
        return len(self._unparsed)

    @property
    def last_event_index(self) -> int:
        """The newest native event that a fact came from; 0 before the first."""
        return self.last_recorded[0] if self.last_recorded else 0

    @property
    def head(self) -> str | None:
        """The newest commit."""
        return next(reversed(self.commits), self.initial_commit)

    def part_of_commit(self, commit: str) -> int | None:
        """The part that made a commit."""
        return self.commits.get(commit)

    def newest_evaluation(self) -> Evaluation | None:
        """Of the newest commit that has a completed one, or one whose build failed."""
        for commit in (*reversed(self.commits), self.initial_commit):
            evaluation = self.evaluations.get(commit or "")
            if evaluation is not None and evaluation.status in ("completed", "build_failed"):
                return evaluation
        return None

    def summary(self) -> TraceSummary:
        """The whole trajectory in a few numbers."""
        return TraceSummary(
            facts=self.version,
            parts=len(self._parts),
            turns=self.turn_count,
            session_ids=tuple(dict.fromkeys(session.session_id for session in self.sessions)),
            token_usage=self.total_usage,
            cost_usd=self.total_cost_usd,
            initial_commit=self.initial_commit,
            test_paths=self.test_paths,
            solved_paths=self.solved_paths,
            best_share=self.best_share,
            solved_commit=self.solved_commit,
            unparsed_events=self.unparsed_events,
            last_event_index=self.last_event_index,
            last_at=self._parts[-1].part.timestamp if self._parts else None,
        )

    def snapshot(self) -> Snapshot:
        """The trace at this moment.

        Raises:
            TraceFormatError: No `TrajectoryBegun` was applied, so nothing says whose trace it is.
        """
        if self.trajectory is None:
            raise TraceFormatError("the journal does not say which trajectory it is of")
        self._settle()
        return Snapshot(
            trajectory=self.trajectory,
            summary=self.summary(),
            end=self.end,
            parts=tuple(self._parts),
            testing_states=tuple(self._states),
        )

    # -- one handler a kind of fact -----------------------------------------------------------------

    def _trajectory_begun(self, fact: TrajectoryBegun) -> None:
        known = self.trajectory
        self.trajectory = fact.trajectory
        if known is not None and known.environment_hash not in (None, fact.trajectory.environment_hash):
            # Other tests: what was reached in the earlier ones says nothing about these.
            self.best_share, self.solved_commit = 0.0, None
        if known is not None and fact.trajectory.agent_version is None:
            self.trajectory = attrs.evolve(fact.trajectory, agent_version=known.agent_version)
        if fact.initial_commit is not None:
            self.initial_commit = fact.initial_commit
        if fact.test_paths != self.test_paths:
            self._timeline.set_test_paths(fact.test_paths)
            self._unsettle(0)

    def _session_begun(self, fact: SessionBegun) -> None:
        self.sessions.append(fact)
        self.end = None
        if self.trajectory is not None and fact.agent_version is not None:
            self.trajectory = attrs.evolve(self.trajectory, agent_version=fact.agent_version)

    def _turn_begun(self, fact: TurnBegun) -> None:
        self.turns.setdefault(
            fact.turn,
            Turn(
                turn=fact.turn,
                session_id=fact.session_id,
                prompt=fact.prompt,
                began_at=fact.at,
                began_after_event=fact.event_index,
            ),
        )

    def _turn_ended(self, fact: TurnEnded) -> None:
        turn = self.turns.get(fact.turn)
        if turn is not None:
            self.turns[fact.turn] = attrs.evolve(turn, ended_at=fact.at, interrupted=fact.interrupted)

    def _part_recorded(self, fact: PartRecorded) -> None:
        part = fact.part
        if part.part <= self.part_count:
            return
        self._note_recorded(part.event_index, part.draft_ordinal)
        is_first_of_turn = not self._parts or self._parts[-1].part.turn != part.turn
        turn = self.turns.get(part.turn) if is_first_of_turn else None
        checkpoint = part.repo_checkpoint
        evaluation = None
        if checkpoint is not None and checkpoint.commit_after not in self.commits:
            self.commits[checkpoint.commit_after] = part.part
            evaluation = self.evaluations.get(checkpoint.commit_after)
        self._index_of_part[part.part] = len(self._parts)
        self._parts.append(
            RecordedPart(part=part, turn_prompt=turn.prompt if turn is not None else None, evaluation=evaluation)
        )
        self._take_calls(part.part, 0, part.envoi_calls)
        if evaluation is not None:
            self._take_evaluation(part.part, evaluation)

    def _usage_recorded(self, fact: UsageRecorded) -> None:
        self._note_recorded(fact.event_index, fact.draft_ordinal)
        if fact.usage is not None:
            self.total_usage += fact.usage
        if fact.cost_usd is not None:
            self.total_cost_usd = (self.total_cost_usd or 0.0) + fact.cost_usd
        index = self._index_of_part.get(fact.part)
        if index is None:
            return
        row = self._parts[index]
        usage, cost_usd = row.token_usage, row.cost_usd
        if fact.usage is not None:
            usage = (usage or TokenUsage()) + fact.usage
        if fact.cost_usd is not None:
            cost_usd = (cost_usd or 0.0) + fact.cost_usd
        self._replace(index, attrs.evolve(row, token_usage=usage, cost_usd=cost_usd))

    def _call_recorded(self, fact: CallRecorded) -> None:
        if fact.call.call_id not in self._claimed:
            self._unclaimed[fact.call.call_id] = fact

    def _calls_claimed(self, fact: CallsClaimed) -> None:
        if fact.part == 0:
            for call_id in fact.call_ids:
                self._claimed.add(call_id)
                self._unclaimed.pop(call_id, None)
            return
        index = self._index_of_part.get(fact.part)
        if index is None:
            return
        calls = [found.call for call_id in fact.call_ids if (found := self._unclaimed.get(call_id)) is not None]
        row = self._parts[index]
        already = row.part.envoi_calls
        self._replace(index, attrs.evolve(row, part=attrs.evolve(row.part, envoi_calls=(*already, *calls))))
        self._take_calls(fact.part, len(already), calls)
        self._unsettle(index)

    def _evaluation_recorded(self, fact: EvaluationRecorded) -> None:
        evaluation = fact.evaluation
        self.evaluations[evaluation.commit] = evaluation
        part = self.commits.get(evaluation.commit)
        if part is not None:
            index = self._index_of_part[part]
            self._replace(index, attrs.evolve(self._parts[index], evaluation=evaluation))
            self._take_evaluation(part, evaluation)
        elif evaluation.commit == self.initial_commit:
            self._take_evaluation(0, evaluation)
        if evaluation.status == "completed":
            if evaluation.counts.total:
                self.best_share = max(self.best_share, evaluation.counts.passed / evaluation.counts.total)
            if self.solved_commit is None and is_solved(evaluation.results, self.test_paths):
                self.solved_commit = evaluation.commit

    def _events_unparsed(self, fact: EventsUnparsed) -> None:
        self._note_recorded(fact.event_index, fact.draft_ordinal)
        self._unparsed.add(fact.event_index)

    def _trajectory_ended(self, fact: TrajectoryEnded) -> None:
        self.end = fact

    # -- rows ---------------------------------------------------------------------------------------

    def _note_recorded(self, event_index: int, draft_ordinal: int) -> None:
        self.last_recorded = max(self.last_recorded or (0, 0), (event_index, draft_ordinal))

    def _take_calls(self, part: int, first: int, calls: Iterable[EnvoiCall]) -> None:
        for number, call in enumerate(calls, first):
            self._claimed.add(call.call_id)
            self._unclaimed.pop(call.call_id, None)
            results: Mapping[str, bool] = {result.path: has_passed(result) for result in call.results}
            if call.status_code == _BUILD_FAILED_STATUS:
                results = all_failing(self.test_paths, call.path)
            self._take_results((part, CALLS, number), results)

    def _take_evaluation(self, part: int, evaluation: Evaluation) -> None:
        results: Mapping[str, bool] = {result.path: has_passed(result) for result in evaluation.results}
        if evaluation.status == "build_failed":
            results = all_failing(self.test_paths)
        if evaluation.status in ("completed", "build_failed"):
            self._take_results((part, EVALUATION, 0), results)

    def _take_results(self, moment: Moment, results: Mapping[str, bool]) -> None:
        self._timeline.add(moment, results)
        self._unsettle(self._index_of_part.get(moment[0], 0))

    def _replace(self, index: int, row: RecordedPart) -> None:
        self._parts[index] = row
        if index < len(self._rows):
            self._rows[index] = _row(row, self._states[index])

    def _unsettle(self, index: int) -> None:
        del self._states[index:]
        del self._rows[index:]

    def _settle(self) -> None:
        latest = self._states[-1] if self._states else TestingState(solved_paths=self._timeline.difference(0))
        solved = latest.solved_paths
        for row in self._parts[len(self._states) :]:
            solved += self._timeline.difference(row.part.part)
            call = row.part.envoi_calls[-1] if row.part.envoi_calls else None
            latest = TestingState(
                solved_paths=solved,
                total_paths=len(self.test_paths),
                latest_path=call.path if call else latest.latest_path,
                latest_passed=call.counts.passed if call else latest.latest_passed,
                latest_total=call.counts.total if call else latest.latest_total,
            )
            self._states.append(latest)
            self._rows.append(_row(row, latest))


def _row(recorded: RecordedPart, testing_state: TestingState) -> TraceRow:
    return TraceRow(
        part=recorded.part,
        turn_prompt=recorded.turn_prompt,
        token_usage=recorded.token_usage,
        cost_usd=recorded.cost_usd,
        evaluation=recorded.evaluation,
        testing_state=testing_state,
    )


_HANDLERS: dict[type[Any], Callable[[TraceState, Any], None]] = {
    TrajectoryBegun: TraceState._trajectory_begun,
    SessionBegun: TraceState._session_begun,
    TurnBegun: TraceState._turn_begun,
    TurnEnded: TraceState._turn_ended,
    PartRecorded: TraceState._part_recorded,
    UsageRecorded: TraceState._usage_recorded,
    CallRecorded: TraceState._call_recorded,
    CallsClaimed: TraceState._calls_claimed,
    EvaluationRecorded: TraceState._evaluation_recorded,
    EventsUnparsed: TraceState._events_unparsed,
    TrajectoryEnded: TraceState._trajectory_ended,
}
