"""What an evaluation after the run found, as a JSON file that the same command goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import anyio.to_thread
import attrs

from envoi_trace_core.analysis.evaluate_commits import KEPT
from envoi_trace_core.domain.parts import Evaluation, EvaluationStatus, PathResult, TestCounts
from envoi_trace_core.domain.solving import is_solved
from envoi_trace_core.errors import KeyMissingError, StorageError, TraceFormatError, UsageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.trace.convert_facts import value_from_json, value_to_json
from envoi_trace_core.trace.keys import TRAJECTORIES

REPORT_VERSION = 1
MAX_REPORT_BYTES = 1024 * 1024 * 1024


@attrs.frozen(kw_only=True)
class RecordedResult:
    """What the trace itself holds of a commit, for comparison."""

    status: EvaluationStatus
    counts: TestCounts


@attrs.frozen(kw_only=True)
class CommitResult:
    """The tests on one commit."""

    commit: str
    part: int
    """The part that made it."""
    tree: str
    """The hash of its files: equal ones were tested once."""
    environment_hash: str
    """The version of the environment that the result is from."""
    status: EvaluationStatus
    counts: TestCounts = TestCounts()
    results: tuple[PathResult, ...] = ()
    solved: bool = False
    """Whether every path of this environment passed."""
    duration_ms: int = 0
    """0 when an equal tree was tested."""
    error: str | None = None
    evaluated_at: datetime
    recorded: RecordedResult | None = None

    @property
    def evaluation(self) -> Evaluation:
        """As a trace holds it."""
        return Evaluation(
            commit=self.commit,
            status=self.status,
            duration_ms=self.duration_ms,
            counts=self.counts,
            results=self.results,
            error=self.error,
        )


@attrs.frozen(kw_only=True)
class EvaluationReport:
    """An evaluation after the run, as far as it went."""

    report_version: int = REPORT_VERSION
    trajectory_id: str
    environment: str
    environment_hash: str
    run_environment_hash: str | None
    """The version in which the agent worked; None when the trace does not say."""
    sandbox: str
    test_paths: tuple[str, ...] = ()
    commits: tuple[CommitResult, ...] = ()
    """In the order in which they were made."""

    @property
    def is_of_run_environment(self) -> bool:
        """Whether the tests are the very ones that the run had."""
        return self.environment_hash == self.run_environment_hash

    def with_result(self, result: CommitResult) -> EvaluationReport:
        """With one more, or a newer one of the same commit."""
        others = [each for each in self.commits if each.commit != result.commit]
        return attrs.evolve(self, commits=tuple(sorted([*others, result], key=lambda each: (each.part, each.commit))))

    def kept(self) -> Mapping[str, CommitResult]:
        """By commit, what need not be evaluated again."""
        return {each.commit: each for each in self.commits if each.status in KEPT}

    def summary(self) -> dict[str, Any]:
        """All of it in a few numbers."""
        kept = list(self.kept().values())
        best = max(kept, key=lambda each: (_share(each), -each.part), default=None)
        solved = next((each for each in kept if each.solved), None)
        return {
            "commits": len(self.commits),
            "evaluated": len(kept),
            "errors": sum(each.status == "error" for each in self.commits),
            "build_failed": sum(each.status == "build_failed" for each in self.commits),
            "differ_from_the_trace": sum(_differs(each) for each in kept),
            "best": None if best is None else {"part": best.part, "commit": best.commit, "share": _share(best)},
            "solved_part": solved.part if solved is not None else None,
            "of_the_run_environment": self.is_of_run_environment,
        }

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps({**json.loads(value_to_json(self)), "summary": self.summary()}, indent=1) + "\n"


def _share(result: CommitResult) -> float:
    return result.counts.passed / result.counts.total if result.counts.total else 0.0


def _differs(result: CommitResult) -> bool:
    """Whether the trace holds another result, where it holds one."""
    recorded = result.recorded
    if recorded is None or recorded.status not in KEPT:
        return False
    return (recorded.status, recorded.counts) != (result.status, result.counts)


def result_of(evaluation: Evaluation, test_paths: Sequence[str], **fields: Any) -> CommitResult:
    """An evaluation as a result of the report."""
    return CommitResult(
        commit=evaluation.commit,
        status=evaluation.status,
        counts=evaluation.counts,
        results=evaluation.results,
        solved=evaluation.status == "completed" and is_solved(evaluation.results, test_paths),
        duration_ms=evaluation.duration_ms,
        error=evaluation.error,
        **fields,
    )


# -- where it stands --------------------------------------------------------------------------------


class ReportStore(Protocol):
    """Where a report stands."""

    @property
    def where(self) -> str:
        """How a person would name it."""
        ...

    async def load(self) -> bytes | None:
        """The report as it stands there; None when there is none."""
        ...

    async def save(self, data: bytes) -> None:
        """Write it, whole or not at all.

        Raises:
            StorageError: It could not be written.
        """
        ...


@attrs.frozen(kw_only=True)
class StoredReport:
    """A report next to the trace, in its storage."""

    storage: Storage
    trajectory_id: str
    environment_hash: str

    @property
    def key(self) -> str:
        """One a version of the environment."""
        return f"{TRAJECTORIES}{self.trajectory_id}/evaluations/{self.environment_hash[:16]}.json"

    @property
    def where(self) -> str:
        """See `ReportStore.where`."""
        return self.storage.uri(self.key)

    async def load(self) -> bytes | None:
        """See `ReportStore.load`."""
        try:
            return await self.storage.get(self.key, length=MAX_REPORT_BYTES)
        except KeyMissingError:
            return None

    async def save(self, data: bytes) -> None:
        """See `ReportStore.save`."""
        await self.storage.put(self.key, data)


@attrs.frozen(kw_only=True)
class ReportFile:
    """A report in a file of this machine."""

    path: Path

    @property
    def where(self) -> str:
        """See `ReportStore.where`."""
        return str(self.path)

    async def load(self) -> bytes | None:
        """See `ReportStore.load`."""
        try:
            return await anyio.Path(self.path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{self.path} can't be read: {error.strerror}") from error

    async def save(self, data: bytes) -> None:
        """See `ReportStore.save`."""
        await anyio.to_thread.run_sync(self._write, data)

    def _write(self, data: bytes) -> None:
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StorageError(f"the report {self.path} can't be written: {error.strerror}") from error


async def open_report(store: ReportStore, new: EvaluationReport) -> EvaluationReport:
    """The report that stands there when it is of the same trajectory and environment, else a new one.

    Raises:
        UsageError: What stands there is something else.
    """
    data = await store.load()
    if data is None:
        return new
    try:
        found = value_from_json(data, EvaluationReport)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(
            f"{store.where} is no report of an evaluation: {error!s:.100}", mend="--output names another file"
        ) from TraceFormatError(str(error))
    for name in ("trajectory_id", "environment_hash"):
        if getattr(found, name) != getattr(new, name):
            raise UsageError(
                f"{store.where} is of {name.replace('_', ' ')} {getattr(found, name)!s:.40}, "
                f"and this is of {getattr(new, name)!s:.40}",
                mend="--output names another file",
            )
    return attrs.evolve(found, sandbox=new.sandbox, run_environment_hash=new.run_environment_hash)
