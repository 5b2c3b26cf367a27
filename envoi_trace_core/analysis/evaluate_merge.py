"""Results of an evaluation after the run into its trace: by its one writer, and only in whole.

A run that may go on has a journal, here or in the storage, and its trace is the journal's fold: the results become
facts of it. Of one that has ended for good only the file is left, and its rows are changed.

A trace's evaluations are all of one version of its environment: `environment_hash` says which. So results of another
version come into it only when they are there for every commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import anyio.to_thread
import attrs

from envoi_trace_core.analysis.evaluate_commits import KEPT
from envoi_trace_core.analysis.evaluate_report import EvaluationReport
from envoi_trace_core.domain.facts import EvaluationRecorded, Fact, TrajectoryBegun
from envoi_trace_core.domain.parts import Evaluation
from envoi_trace_core.domain.solving import has_passed, is_solved
from envoi_trace_core.errors import ConditionFailedError, StorageError, UsageError
from envoi_trace_core.protocols import AtVersion, Storage
from envoi_trace_core.run.restoring import StoredRun, bring_back
from envoi_trace_core.trace.encode import TraceEncoder
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import Journal, read_journal
from envoi_trace_core.trace.keys import journal_path, trace_key
from envoi_trace_core.trace.lease import Lease
from envoi_trace_core.trace.reader import Trace, read_trace
from envoi_trace_core.trace.rows import Snapshot, TestingState
from envoi_trace_core.trace.testing_timeline import EVALUATION, TestingTimeline, all_failing
from envoi_trace_core.trace.writer import TraceWriter

FLUSH_TIMEOUT_S = 120.0
_ATTEMPTS = 5


def check_may_merge(trace: Trace, environment_hash: str, commits: Sequence[str]) -> None:
    """Whether results of these commits may be written into the trace.

    Raises:
        UsageError: They would stand beside results of another version of the environment.
    """
    own_hash = trace.trajectory.environment_hash
    if environment_hash != own_hash and (left := set(trace.commits) - set(commits)):
        raise UsageError(
            f"the environment ({environment_hash[:12]}) is not the one of the trace ({(own_hash or 'unknown')[:12]}), "
            f"and {len(left)} commits would keep their old results",
            mend="--commits all, or no --write: the report has the results",
        )


async def merge(storage: Storage, lease: Lease, report: EvaluationReport, note: Callable[[str], None]) -> int:
    """Write the results of a report into the trace; gives how many differ from what stood there.

    Raises:
        UsageError: A commit has no result, and results of another environment would stand beside it.
        StorageError: The trace could not be written, or another run took over.
    """
    trajectory_id = report.trajectory_id
    results = {commit: found.evaluation for commit, found in report.kept().items()}
    if not results:
        return 0
    stored = await StoredRun.find(storage, trajectory_id)
    if stored.journal.sizes_bytes or journal_path(trajectory_id).exists():
        return await _merge_into_journal(storage, lease, report, results, note)
    return await _merge_into_file(storage, lease, report, results)


# -- a run that may go on -----------------------------------------------------------------------------


async def _merge_into_journal(
    storage: Storage,
    lease: Lease,
    report: EvaluationReport,
    results: dict[str, Evaluation],
    note: Callable[[str], None],
) -> int:
    trajectory_id = report.trajectory_id
    stored = await bring_back(storage, trajectory_id, note)
    facts, _ = await anyio.to_thread.run_sync(read_journal, journal_path(trajectory_id))
    state = TraceState.of(facts)
    if state.trajectory is None:
        raise StorageError(f"the journal of {trajectory_id} does not say which trajectory it is of")
    new: list[Fact] = []
    if report.environment_hash != state.trajectory.environment_hash:
        _check_whole(report, set(state.commits))
        new.append(
            TrajectoryBegun(
                trajectory=attrs.evolve(state.trajectory, environment_hash=report.environment_hash),
                test_paths=report.test_paths,
                initial_commit=state.initial_commit,
            )
        )
    changed = [found for commit, found in results.items() if _differs(state.evaluations.get(commit), found)]
    new += [EvaluationRecorded(evaluation=evaluation) for evaluation in changed]
    async with (
        Journal.open(journal_path(trajectory_id)) as journal,
        TraceWriter.open(storage, trajectory_id, state) as writer,
    ):
        was_all_stored = stored.journal.size_bytes == journal.durable_bytes
        await lease.ensure_held()
        for fact in new:
            await journal.append(fact)
            state.apply(fact)
        await writer.flush(FLUSH_TIMEOUT_S)
        if was_all_stored:  # else a resume on this machine stores these facts with those before them
            await stored.journal.upload(journal.durable_bytes)
    return len(changed)


# -- one of which only the file is left ---------------------------------------------------------------


async def _merge_into_file(
    storage: Storage, lease: Lease, report: EvaluationReport, results: dict[str, Evaluation]
) -> int:
    key = trace_key(report.trajectory_id)
    for _ in range(_ATTEMPTS):
        info = await storage.stat(key)
        if info is None:
            raise UsageError(f"there is no {storage.uri(key)} to write into")
        data = await storage.get(key)
        again = await storage.stat(key)
        if again is None or again.version != info.version:
            continue
        trace = await anyio.to_thread.run_sync(partial(read_trace, data, name=storage.uri(key)))
        changed = [
            commit
            for commit, found in results.items()
            if commit in trace.commits and _differs(trace.evaluations.get(commit), found)
        ]
        other = report.environment_hash != trace.trajectory.environment_hash
        if other:
            _check_whole(report, set(trace.commits))
        if not changed and not other:
            return 0
        encoded = await anyio.to_thread.run_sync(_encode, trace, report, results)
        await lease.ensure_held()
        try:
            await storage.put(key, encoded, condition=AtVersion(info.version))
        except ConditionFailedError:
            continue
        return len(changed)
    raise StorageError(f"{storage.uri(key)} changed all the time while it was written", retryable=True)


def _encode(trace: Trace, report: EvaluationReport, results: dict[str, Evaluation]) -> bytes:
    return TraceEncoder().encode(merged(trace, report, results))


def merged(trace: Trace, report: EvaluationReport, results: dict[str, Evaluation]) -> Snapshot:
    """The trace with these results, and what follows from them.

    How the tests stood at each part is then told by evaluations alone: what the agent's own calls found, path by
    path, is not in the file.
    """
    same = report.environment_hash == trace.trajectory.environment_hash
    test_paths = trace.summary.test_paths if same and trace.summary.test_paths else report.test_paths
    snapshot = trace.snapshot()
    parts = []
    evaluations: dict[int, Evaluation] = {}
    for recorded in snapshot.parts:
        checkpoint = recorded.part.repo_checkpoint
        is_maker = checkpoint is not None and trace.commits[checkpoint.commit_after] == recorded.part.part
        found = results.get(checkpoint.commit_after) if checkpoint is not None and is_maker else None
        if found is not None and _differs(recorded.evaluation, found):
            recorded = attrs.evolve(recorded, evaluation=found)
        if recorded.evaluation is not None:
            evaluations[recorded.part.part] = recorded.evaluation
        parts.append(recorded)
    states = _states(snapshot, evaluations, test_paths)
    kept = [each for each in evaluations.values() if each.status == "completed"]
    shares = [each.counts.passed / each.counts.total for each in kept if each.counts.total]
    solved = next((each.commit for each in kept if is_solved(each.results, test_paths)), None)
    return attrs.evolve(
        snapshot,
        trajectory=attrs.evolve(trace.trajectory, environment_hash=report.environment_hash),
        parts=tuple(parts),
        testing_states=states,
        summary=attrs.evolve(
            trace.summary,
            facts=trace.summary.facts + len(results),
            test_paths=test_paths,
            solved_paths=states[-1].solved_paths if states else 0,
            best_share=max(shares, default=0.0),
            solved_commit=solved,
        ),
    )


def _states(
    snapshot: Snapshot, evaluations: dict[int, Evaluation], test_paths: tuple[str, ...]
) -> tuple[TestingState, ...]:
    timeline = TestingTimeline()
    timeline.set_test_paths(test_paths)
    for part, evaluation in evaluations.items():
        if evaluation.status == "build_failed":
            timeline.add((part, EVALUATION, 0), all_failing(test_paths))
        elif evaluation.status == "completed":
            timeline.add((part, EVALUATION, 0), {result.path: has_passed(result) for result in evaluation.results})
    solved = 0
    states = []
    for recorded, state in zip(snapshot.parts, snapshot.testing_states, strict=True):
        solved += timeline.difference(recorded.part.part)
        states.append(attrs.evolve(state, solved_paths=solved, total_paths=len(test_paths)))
    return tuple(states)


def _check_whole(report: EvaluationReport, commits: set[str]) -> None:
    missing = commits - set(report.kept())
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(commits)} commits have no result in this environment, which is not the trace's: "
            "nothing was written into the trace",
            mend="the same command again evaluates them",
        )


def _differs(known: Evaluation | None, found: Evaluation) -> bool:
    """Whether a result says something else than what stands there; how long it took does not count."""
    if known is None or known.status not in KEPT:
        return True
    seen = [(result.path, result.counts) for result in known.results]
    return (known.status, known.counts, seen) != (
        found.status,
        found.counts,
        [(result.path, result.counts) for result in found.results],
    )
