"""What `envoi-trace query` costs over DuckDB reading the same files directly, and that it gives the same.

    python benchmarks/query.py [--traces 1000] [--parts 1000] [--folder FOLDER]

The traces are made once in the folder (about 0.9 MB each) and used again. Each statement runs several times both ways,
in turn; the fastest ones are compared, since whatever else the machine does only makes them slower.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import duckdb
from trace_snapshot import begin, make_evaluation, make_part

from envoi_trace_core.analysis.query_run import query_storage
from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.domain.facts import EvaluationRecorded, PartRecorded
from envoi_trace_core.trace.encode import TraceEncoder
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.keys import trace_key

MAX_RATIO = 1.5
REPEATS = 5
STATEMENTS = {
    "count": "SELECT count(*) FROM parts",
    "groups": "SELECT agent, model, count(*), avg(evaluation.passed), max(testing_state.solved_paths) "
    "FROM parts GROUP BY ALL ORDER BY ALL",
    "filter": "SELECT trajectory_id, min(part) FROM parts WHERE evaluation.passed >= 25 GROUP BY 1 ORDER BY 1",
    "text": "SELECT count(*) FROM parts WHERE tool_output LIKE '%qqz%'",
}


def make_traces(root: Path, traces: int, parts: int) -> None:
    """Trajectories of three agents and four models, with equal parts."""
    missing = [number for number in range(traces) if not (root / trace_key(f"trace-{number:05d}")).exists()]
    if not missing:
        return
    print(f"making {len(missing)} traces of {parts} parts in {root}")
    state = TraceState()
    begin(state)
    for number in range(1, parts + 1):
        state.apply(PartRecorded(part=make_part(number)))
        if number % 10 == 0:
            state.apply(EvaluationRecorded(evaluation=make_evaluation(number)))
    snapshot, encoder = state.snapshot(), TraceEncoder()
    for number in missing:
        trajectory = attrs.evolve(
            snapshot.trajectory, trajectory_id=f"trace-{number:05d}", agent=f"a{number % 3}", model=f"m{number % 4}"
        )
        path = root / trace_key(trajectory.trajectory_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoder.encode(attrs.evolve(snapshot, trajectory=trajectory)))


def directly(root: Path, statement: str) -> list[tuple[Any, ...]]:
    """DuckDB, as one would write it."""
    files = f"read_parquet('{root}/trajectories/*/trace.parquet')"
    with duckdb.connect() as connection:
        return connection.execute(statement.replace("FROM parts", f"FROM {files} AS parts")).fetchall()


def by_query(root: Path, statement: str) -> list[tuple[Any, ...]]:
    """What the command does between its start and its output."""
    rows: list[tuple[Any, ...]] = []
    anyio.run(lambda: query_storage(LocalStorage(root), statement, lambda result: rows.extend(result.rows)))
    return rows


def timed(call: Callable[[], list[tuple[Any, ...]]]) -> tuple[float, list[tuple[Any, ...]]]:
    began_at = time.perf_counter()
    rows = call()
    return time.perf_counter() - began_at, rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1000)
    parser.add_argument("--parts", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.folder or Path(scratch)
        make_traces(root, options.traces, options.parts)
        worst = 0.0
        print(f"{'statement':<10} {'DuckDB':>9} {'query':>9} {'ratio':>6}")
        for name, statement in STATEMENTS.items():
            direct_s: list[float] = []
            query_s: list[float] = []
            for _ in range(REPEATS + 1):
                took, expected = timed(lambda: directly(root, statement))  # noqa: B023
                direct_s.append(took)
                took, rows = timed(lambda: by_query(root, statement))  # noqa: B023
                query_s.append(took)
                if [tuple(map(str, row)) for row in rows] != [tuple(map(str, row)) for row in expected]:
                    print(f"{name}: the rows differ")
                    return 1
            direct, ours = min(direct_s[1:]), min(query_s[1:])
            worst = max(worst, ours / direct)
            print(f"{name:<10} {1000 * direct:>6.0f} ms {1000 * ours:>6.0f} ms {ours / direct:>6.2f}")
    print(f"worst ratio {worst:.2f}, bound {MAX_RATIO}")
    return 0 if worst <= MAX_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
