"""What recording costs: an append to the journal and a snapshot, at part 100 and at part 10,000.

    python benchmarks/trace_snapshot.py [FOLDER]

The folder should be on the disk that a run would use: an append is one fsync.
"""

from __future__ import annotations

import random
import string
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from envoi_trace_core.domain.facts import EvaluationRecorded, PartRecorded, SessionBegun, TrajectoryBegun, TurnBegun
from envoi_trace_core.domain.parts import (
    ChangedFile,
    Evaluation,
    Part,
    PathResult,
    RepoCheckpoint,
    TestCounts,
    Trajectory,
)
from envoi_trace_core.trace.encode import TraceEncoder
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import Journal
from envoi_trace_core.trace.reader import read_trace

BEGAN_AT = datetime(2026, 1, 1, tzinfo=UTC)
PATHS = tuple(f"suite{number % 5}/test{number}" for number in range(50))
COMMIT_EVERY = 10
SAMPLE = 50

_random = random.Random(1)
_words = ["".join(_random.choices(string.ascii_lowercase, k=_random.randint(2, 9))) for _ in range(3000)]


def text(length: int) -> str:
    """Words, about as compressible as what agents write."""
    return " ".join(_random.choices(_words, k=length // 7))


def make_part(number: int) -> Part:
    """A typical part: a tool call with 1.5 kB of output; each tenth one changes a file."""
    commits = number % COMMIT_EVERY == 0
    return Part(
        part=number,
        turn=1,
        session_id="session",
        timestamp=BEGAN_AT + timedelta(seconds=number),
        duration_ms=120,
        event_index=2 * number,
        part_type="patch" if commits else "tool",
        summary=text(80),
        content=text(300),
        tool_name="shell",
        tool_status="completed",
        tool_input=text(100),
        tool_output=text(1500),
        tool_exit_code=0,
        git_commit=f"{number // COMMIT_EVERY:040x}",
        repo_checkpoint=RepoCheckpoint(
            commit_before=f"{number // COMMIT_EVERY - 1:040x}",
            commit_after=f"{number // COMMIT_EVERY:040x}",
            changed_files=(ChangedFile(path="src/main.py", status="modified", additions=4, deletions=1),),
        )
        if commits
        else None,
        patch=text(1200) if commits else None,
    )


def make_evaluation(number: int) -> Evaluation:
    """Of the commit that part made."""
    results = tuple(
        PathResult(path=path, counts=TestCounts(passed=int(number > 20 * at), failed=int(number <= 20 * at), total=1))
        for at, path in enumerate(PATHS)
    )
    counts = sum((result.counts for result in results), TestCounts())
    return Evaluation(
        commit=f"{number // COMMIT_EVERY:040x}", status="completed", counts=counts, results=results, duration_ms=900
    )


def begin(state: TraceState) -> None:
    """What comes before the first part."""
    trajectory = Trajectory(
        trajectory_id="benchmark", agent="script", sandbox="local", task="task", environment="environment",
        started_at=BEGAN_AT, envoi_trace_version="0",
    )  # fmt: skip
    state.apply(TrajectoryBegun(trajectory=trajectory, test_paths=PATHS, initial_commit="0" * 40))
    state.apply(SessionBegun(session_id="session", at=BEGAN_AT))
    state.apply(TurnBegun(turn=1, session_id="session", prompt=text(4000), at=BEGAN_AT))


def timed_ms[T](call: Callable[[], T]) -> tuple[float, T]:
    began_at = time.perf_counter()
    result = call()
    return 1000 * (time.perf_counter() - began_at), result


def run(folder: Path) -> None:
    state, encoder = TraceState(), TraceEncoder()
    begin(state)
    print(f"{'parts':>6}  {'append':>9}  {'fold':>9}  {'snapshot':>9}  {'first':>9}  {'size':>9}  {'read':>9}")
    with Journal.open(folder / "journal.jsonl") as journal:
        for upto in (100, 1_000, 10_000):
            sample: list[tuple[float, float]] = []
            for number in range(state.part_count + 1, upto + 1):
                fact = PartRecorded(part=make_part(number))
                is_sampled = number > upto - SAMPLE
                append_ms = timed_ms(lambda: journal.append_now(fact))[0] if is_sampled else 0.0  # noqa: B023
                fold_ms = timed_ms(lambda: state.apply(fact))[0]  # noqa: B023
                if number % COMMIT_EVERY == 0:
                    state.apply(EvaluationRecorded(evaluation=make_evaluation(number)))
                if is_sampled:
                    sample.append((append_ms, fold_ms))
            first_ms, _ = timed_ms(lambda: TraceEncoder().encode(state.snapshot()))
            encoder.encode(state.snapshot())
            state.apply(PartRecorded(part=make_part(upto + 1)))
            snapshot_ms, data = timed_ms(lambda: encoder.encode(state.snapshot()))
            read_ms, _ = timed_ms(lambda: read_trace(data).rows)  # noqa: B023
            append_ms, fold_ms = (sorted(column)[len(column) // 2] for column in zip(*sample, strict=True))
            print(
                f"{upto:>6}  {append_ms:>6.2f} ms  {1000 * fold_ms:>6.1f} us  {snapshot_ms:>6.0f} ms"
                f"  {first_ms:>6.0f} ms  {len(data) / 1e6:>6.1f} MB  {read_ms:>6.0f} ms"
            )
            print(f"        {1000 / (append_ms + fold_ms):,.0f} parts/s")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        run(Path(folder))


if __name__ == "__main__":
    main()
