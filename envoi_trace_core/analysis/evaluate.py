"""The environment's tests on the commits of a stored trajectory, after the run.

A trajectory that is read by its id is held by its lease meanwhile, so that nobody goes on with it, and `cleanup`
leaves the sandboxes alone. Equal trees are tested once. Each result is in the report as soon as it is there: the same
command again does the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.analysis.evaluate_commits import ChosenCommit
from envoi_trace_core.analysis.evaluate_pool import TestPool, open_sandbox
from envoi_trace_core.analysis.evaluate_report import (
    CommitResult,
    EvaluationReport,
    RecordedResult,
    ReportStore,
    result_of,
)
from envoi_trace_core.analysis.replay import checkout_commit
from envoi_trace_core.background import background_tasks
from envoi_trace_core.domain.environments import Environment
from envoi_trace_core.domain.parts import Evaluation
from envoi_trace_core.errors import HarnessError, StorageError, TraceFormatError
from envoi_trace_core.repo.git import Git, GitError
from envoi_trace_core.specs import SandboxRequest, SandboxSpec
from envoi_trace_core.trace.reader import Trace
from envoi_trace_core.trace.redact import Redactor

SAVE_INTERVAL_S = 1.0
SAVE_TIMEOUT_S = 120.0
MAX_LIFETIME_S = 86_400.0
LIFETIME_MARGIN_S = 1800.0


@attrs.frozen(kw_only=True)
class EvaluationPlan:
    """What is evaluated, and where."""

    trace: Trace
    commits: Sequence[ChosenCommit]
    environment: Environment
    sandbox: SandboxSpec[Any]
    sandbox_options: Any
    runs_model: bool
    """Whether a model wrote what is tested: an unisolated sandbox is then refused."""
    secrets: Mapping[str, str]
    concurrency: int
    timeout_s: float
    git: Git
    """A repository that holds the commits."""

    def new_report(self) -> EvaluationReport:
        """Without a result."""
        trajectory = self.trace.trajectory
        return EvaluationReport(
            trajectory_id=trajectory.trajectory_id,
            environment=self.environment.name,
            environment_hash=self.environment.content_hash,
            run_environment_hash=trajectory.environment_hash,
            sandbox=self.sandbox.name,
        )


@attrs.define(kw_only=True)
class OfflineEvaluation:
    """One evaluation of a trajectory's commits at work."""

    plan: EvaluationPlan
    report: EvaluationReport
    store: ReportStore
    note: Callable[[str], None]
    on_result: Callable[[CommitResult, int, int], None] = lambda _result, _done, _total: None
    """Told of each result, how many are there, and of how many."""

    _trees: dict[str, list[ChosenCommit]] = attrs.field(factory=dict, init=False)
    _tree_of: dict[str, str] = attrs.field(factory=dict, init=False)
    _done: int = attrs.field(default=0, init=False)
    _saved: EvaluationReport | None = attrs.field(default=None, init=False)
    _redactor: Redactor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._redactor = Redactor(self.plan.secrets)

    async def run(self) -> EvaluationReport:
        """Evaluate what the report does not hold yet; what was found is saved whatever happens.

        Raises:
            SandboxError: No sandbox could be made.
            HarnessError: The environment's setup or runtime failed.
            StorageError: The report could not be written.
            TraceFormatError: The repository does not hold a commit.
        """
        self._tree_of = await anyio.to_thread.run_sync(trees_of, self.plan.git, self.plan.commits)
        await self._take_equal_trees()
        kept = self.report.kept()
        for chosen in self.plan.commits:
            if chosen.commit not in kept:
                self._trees.setdefault(self._tree_of[chosen.commit], []).append(chosen)
        self._done = len(self.plan.commits) - sum(map(len, self._trees.values()))
        try:
            async with background_tasks() as group:
                group.start_soon(self._save_now_and_then)
                if self._trees:
                    # The newest first: of an evaluation that is cut off, they say most.
                    await self._pool().run([commits[0].commit for commits in reversed(self._trees.values())])
        finally:
            with anyio.move_on_after(SAVE_TIMEOUT_S, shield=True):
                await self._save()
        return self.report

    async def _take_equal_trees(self) -> None:
        """Commits whose tree was tested by an earlier evaluation need no test."""
        by_tree = {each.tree: each for each in self.report.kept().values()}
        known = self.report.kept()
        for chosen in self.plan.commits:
            equal = by_tree.get(self._tree_of[chosen.commit])
            if equal is not None and chosen.commit not in known:
                self._add(chosen, attrs.evolve(equal.evaluation, commit=chosen.commit, duration_ms=0))

    def _pool(self) -> TestPool:
        plan = self.plan
        return TestPool(
            environment=plan.environment,
            concurrency=plan.concurrency,
            timeout_s=plan.timeout_s,
            open=lambda number: open_sandbox(plan.sandbox, plan.sandbox_options, self._request(number)),
            export=partial(export_commit, plan.git),
            on_paths=self._take_paths,
            on_result=self._take,
            report=self.note,
        )

    def _request(self, number: int) -> SandboxRequest:
        plan = self.plan
        trajectory_id = plan.trace.trajectory.trajectory_id
        waves = -(-len(self._trees) // plan.concurrency)
        return SandboxRequest(
            # Of the trajectory, the environment's version and the worker: after a crash the next one finds it.
            name=f"envoi-trace-{trajectory_id}-e{number}-{plan.environment.content_hash[:6]}",
            trajectory_id=trajectory_id,
            role="evaluation",
            lifetime_s=min(MAX_LIFETIME_S, waves * plan.timeout_s + LIFETIME_MARGIN_S),
            runs_model=plan.runs_model,
            companions=min(plan.concurrency, len(self._trees)) - 1 - number,
            dockerfile=plan.environment.dockerfile,
            report=self.note,
        )

    def _take_paths(self, paths: Sequence[str]) -> None:
        known = self.report.test_paths
        if known and self.report.kept() and known != tuple(paths):
            raise HarnessError(
                "the environment has other test paths than in an earlier evaluation, and yet the same content",
                mend="make its main.py say the same each time; --again evaluates all anew",
            )
        self.report = attrs.evolve(self.report, test_paths=tuple(paths))

    async def _take(self, evaluation: Evaluation) -> None:
        clean = self._redactor.value(evaluation)
        for chosen in self._trees[self._tree_of[evaluation.commit]]:
            same = chosen.commit == evaluation.commit
            equal = clean if same else attrs.evolve(clean, commit=chosen.commit, duration_ms=0)
            result = self._add(chosen, equal)
            self._done += 1
            self.on_result(result, self._done, len(self.plan.commits))

    def _add(self, chosen: ChosenCommit, evaluation: Evaluation) -> CommitResult:
        recorded = self.plan.trace.evaluations.get(chosen.commit)
        result = result_of(
            evaluation,
            self.report.test_paths,
            part=chosen.part,
            tree=self._tree_of[chosen.commit],
            environment_hash=self.plan.environment.content_hash,
            evaluated_at=datetime.now(UTC),
            recorded=None if recorded is None else RecordedResult(status=recorded.status, counts=recorded.counts),
        )
        self.report = self.report.with_result(result)
        return result

    # -- the report ---------------------------------------------------------------------------------

    async def _save_now_and_then(self) -> None:
        while True:
            await anyio.sleep(SAVE_INTERVAL_S)
            try:
                await self._save()
            except StorageError as error:
                if not error.retryable:
                    raise

    async def _save(self) -> None:
        report = self.report
        if report is not self._saved:
            await self.store.save(report.to_json().encode())
            self._saved = report


def trees_of(git: Git, commits: Sequence[ChosenCommit]) -> dict[str, str]:
    """The tree of each commit.

    Raises:
        TraceFormatError: The repository does not hold one.
    """
    try:
        words = [f"{chosen.commit}^{{tree}}" for chosen in commits]
        found = git.text("cat-file", "--batch-check=%(objectname)", stdin=("\n".join(words) + "\n").encode())
    except GitError as error:
        raise TraceFormatError(f"the repository can't be read: {error.message}") from error
    trees: dict[str, str] = {}
    for chosen, line in zip(commits, found.splitlines(), strict=True):
        if line.endswith(" missing"):
            raise TraceFormatError(f"the repository does not hold commit {chosen.commit} of part {chosen.part}")
        trees[chosen.commit] = line
    return trees


def export_commit(git: Git, commit: str, folder: Path) -> Awaitable[None]:
    """Write the files of a commit into a folder that does not exist."""
    return anyio.to_thread.run_sync(checkout_commit, git, commit, folder)
