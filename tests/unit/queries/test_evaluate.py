"""Evaluations after the run, without a sandbox: which commits, the report, and results into a trace."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest

from envoi_trace_core.analysis.evaluate_commits import choose_commits
from envoi_trace_core.analysis.evaluate_merge import check_may_merge, merge
from envoi_trace_core.analysis.evaluate_report import (
    EvaluationReport,
    RecordedResult,
    ReportFile,
    StoredReport,
    open_report,
    result_of,
)
from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.domain.facts import EvaluationRecorded
from envoi_trace_core.domain.parts import Evaluation, PathResult, TestCounts
from envoi_trace_core.errors import StorageError, UsageError
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import Journal, read_journal
from envoi_trace_core.trace.keys import journal_path, trace_key
from envoi_trace_core.trace.lease import Lease
from envoi_trace_core.trace.reader import read_trace

from .conftest import PATHS, results_of, run_facts

OWN_HASH, OTHER_HASH = "e" * 64, "f" * 64
C3, C6, C9 = (f"{number:040x}" for number in (3, 6, 9))


def trace_of(**changes):
    return read_trace(encode_trace(TraceState.of(run_facts("t1", **changes)).snapshot()))


def evaluation(commit, passing, status="completed"):
    results = results_of(passing) if status == "completed" else ()
    counts = sum((result.counts for result in results), TestCounts())
    return Evaluation(commit=commit, status=status, counts=counts, results=results, duration_ms=3)


def report_of(*evaluations, environment_hash=OWN_HASH, test_paths=PATHS):
    report = EvaluationReport(
        trajectory_id="t1", environment="sorting", environment_hash=environment_hash, run_environment_hash=OWN_HASH,
        sandbox="local", test_paths=test_paths,
    )  # fmt: skip
    for found in evaluations:
        report = report.with_result(
            result_of(
                found, test_paths, part=int(found.commit, 16), tree="t", environment_hash=environment_hash,
                evaluated_at=datetime.now(UTC), recorded=None,
            )
        )  # fmt: skip
    return report


# -- which commits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("all", [3, 6, 9, 12]),
        ("last", [12]),
        ("missing", [9, 12]),
        ("every:1", [3, 6, 9, 12]),
        ("every:2", [6, 12]),
        ("every:3", [9, 12]),
        ("every:100", [12]),
        ("3", [3]),
        ("5,4,12", [3, 12]),
    ],
)
def test_which_commits(words, parts):
    assert [chosen.part for chosen in choose_commits(trace_of(parts=13), words)] == parts


def test_a_part_before_the_first_commit_means_what_the_agent_found():
    (chosen,) = choose_commits(trace_of(), "2")
    assert (chosen.commit, chosen.part) == ("0" * 40, 2)


@pytest.mark.parametrize("words", ["", "some", "every:0", "every:x", "1-3", "0", "99", "3,", "-1", "²"])
def test_words_that_name_no_commits(words):
    with pytest.raises(UsageError):
        choose_commits(trace_of(), words)


def test_a_trace_without_a_commit():
    with pytest.raises(UsageError, match="made no commit"):
        choose_commits(trace_of(parts=2), "all")


# -- the report ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_report_goes_on_where_it_stands(tmp_path, root):
    report = report_of(evaluation(C6, 3), evaluation(C3, 1), evaluation(C9, 0, "error"))
    assert [each.part for each in report.commits] == [3, 6, 9]
    new = report_of()
    for store in (
        ReportFile(path=tmp_path / "new folder" / "report.json"),
        StoredReport(storage=LocalStorage(root), trajectory_id="t1", environment_hash=OWN_HASH),
    ):
        assert await open_report(store, new) == new
        await store.save(report.to_json().encode())
        found = await open_report(store, new)
        assert found == report
        assert set(found.kept()) == {C3, C6}
        with pytest.raises(UsageError, match="is of environment hash eee"):
            await open_report(store, report_of(environment_hash=OTHER_HASH))
        with pytest.raises(UsageError, match="is of trajectory id t1"):
            await open_report(store, attrs.evolve(new, trajectory_id="t2"))
        await store.save(b"{")
        with pytest.raises(UsageError, match="no report"):
            await open_report(store, new)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["report.json"]


def test_a_report_in_a_few_numbers():
    report = report_of(evaluation(C3, 1), evaluation(C6, 3), evaluation(C9, 3))
    recorded = RecordedResult(status="completed", counts=TestCounts(passed=1, failed=5, total=6))
    report = report.with_result(attrs.evolve(report.commits[0], recorded=recorded))
    summary = report.summary()
    assert summary["best"] == {"part": 6, "commit": C6, "share": 1.0}
    assert summary["solved_part"] == 6
    assert summary["differ_from_the_trace"] == 1
    assert summary["of_the_run_environment"]


# -- into the trace -----------------------------------------------------------------------------------------


async def merge_now(root, report):
    storage = LocalStorage(root)
    async with Lease.hold(storage, "t1") as lease:
        return await merge(storage, lease, report, lambda _line: None)


@pytest.mark.anyio
async def test_into_the_file_of_a_run_that_is_over(store, root):
    path = store("t1", parts=9, passing=(1, 3), reason="solved")
    assert await merge_now(root, report_of(evaluation(C9, 2), evaluation(C3, 1))) == 1
    trace = read_trace(path)
    assert [found.counts.passed for found in trace.evaluations.values()] == [2, 6, 4]
    assert [row.testing_state.solved_paths for row in trace.rows] == [0, 0, 1, 1, 1, 3, 3, 3, 2]
    assert (trace.summary.solved_paths, trace.summary.best_share, trace.summary.solved_commit) == (2, 1.0, C6)
    assert trace.end.reason == "solved"
    assert trace.rows[4].part.envoi_calls
    # Again: nothing to write.
    before = path.read_bytes()
    assert await merge_now(root, report_of(evaluation(C9, 2), evaluation(C3, 1))) == 0
    assert path.read_bytes() == before


@pytest.mark.anyio
async def test_an_error_replaces_no_result(store, root):
    path = store("t1")
    before = path.read_bytes()
    assert await merge_now(root, report_of(evaluation(C3, 0, "error"))) == 0
    assert path.read_bytes() == before


@pytest.mark.anyio
async def test_another_version_of_the_environment_comes_in_whole_or_not_at_all(store, root):
    path = store("t1")
    before = path.read_bytes()
    paths = (*PATHS, "new")
    harder = evaluation(C6, 3)
    harder = attrs.evolve(
        harder, results=(*harder.results, PathResult(path="new", counts=TestCounts(failed=1, total=1)))
    )
    partial = report_of(harder, environment_hash=OTHER_HASH, test_paths=paths)
    with pytest.raises(UsageError, match="1 of 2 commits have no result in this environment"):
        await merge_now(root, partial)
    with pytest.raises(UsageError, match="1 commits would keep their old results"):
        check_may_merge(read_trace(path), OTHER_HASH, [C6])
    assert path.read_bytes() == before
    check_may_merge(read_trace(path), OTHER_HASH, [C3, C6])
    whole = report_of(evaluation(C3, 1), harder, environment_hash=OTHER_HASH, test_paths=paths)
    await merge_now(root, whole)
    trace = read_trace(path)
    assert trace.trajectory.environment_hash == OTHER_HASH
    assert trace.table.column("environment_hash").unique().to_pylist() == [OTHER_HASH]
    assert trace.summary.total_paths == trace.rows[0].testing_state.total_paths == 4
    assert trace.summary.solved_commit is None
    assert trace.summary.solved_paths == 3


@pytest.mark.anyio
async def test_into_the_journal_of_a_run_that_may_go_on(store, root):
    path = store("t1", reason="part_limit", passing=(1,))
    with Journal.open(journal_path("t1")) as journal:
        for fact in run_facts("t1", reason="part_limit", passing=(1,)):
            journal.append_now(fact)
    assert await merge_now(root, report_of(evaluation(C3, 1), evaluation(C6, 2))) == 1
    facts, damage = read_journal(journal_path("t1"))
    assert not damage
    assert [fact.evaluation.commit for fact in facts if isinstance(fact, EvaluationRecorded)] == [C3, C6]
    # What a resume would write next is what stands there.
    assert encode_trace(TraceState.of(facts).snapshot()) == path.read_bytes()
    other = report_of(evaluation(C3, 0), evaluation(C6, 1), environment_hash=OTHER_HASH)
    assert await merge_now(root, other) == 2
    trace = read_trace(path)
    assert trace.trajectory.environment_hash == OTHER_HASH
    assert trace.summary.best_share == pytest.approx(1 / 3)
    assert trace.end.reason == "part_limit"


@pytest.mark.anyio
async def test_a_second_writer_is_seen(store, root):
    path = store("t1")
    storage = LocalStorage(root)

    @attrs.frozen
    class Racing:
        """Another writer comes between reading and writing, each time."""

        inner: LocalStorage

        def __getattr__(self, name):
            return getattr(self.inner, name)

        async def put(self, key, data, *, condition=None):
            if key == trace_key("t1"):
                await self.inner.put(key, path.read_bytes())
            return await self.inner.put(key, data, condition=condition)

    async with Lease.hold(storage, "t1") as lease:
        with pytest.raises(StorageError, match="changed all the time"):
            await merge(Racing(storage), lease, report_of(evaluation(C3, 2)), lambda _line: None)
    assert read_trace(path).evaluations[C3].counts.passed == 2
