"""Trajectories that the tests make up, in a local storage, and a storage that is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.domain.facts import (
    EvaluationRecorded,
    Fact,
    PartRecorded,
    SessionBegun,
    TrajectoryBegun,
    TrajectoryEnded,
    TurnBegun,
    UsageRecorded,
)
from envoi_trace_core.domain.parts import (
    ChangedFile,
    EnvoiCall,
    Evaluation,
    Part,
    PathResult,
    RepoCheckpoint,
    TestCounts,
    TokenUsage,
    Trajectory,
)
from envoi_trace_core.protocols import ObjectInfo
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.keys import trace_key

BEGAN_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PATHS = ("sort/small", "sort/large", "format")


def results_of(passing: int) -> tuple[PathResult, ...]:
    """The first so many paths pass."""
    return tuple(
        PathResult(path=path, counts=TestCounts(passed=2 * (at < passing), failed=2 * (at >= passing), total=2))
        for at, path in enumerate(PATHS)
    )


def run_facts(
    trajectory_id: str, *, parts: int = 6, passing: Sequence[int] = (1, 3), reason: str | None = "solved", **fields: Any
) -> list[Fact]:
    """A run: every third part commits, and its evaluation passes as many paths as `passing` says."""
    values: dict[str, Any] = {
        "trajectory_id": trajectory_id, "agent": "script", "sandbox": "local", "task": "merge_sort",
        "environment": "sorting", "started_at": BEGAN_AT, "envoi_trace_version": "0.1.0", "labels": {"team": "a"},
        "environment_hash": "e" * 64,
    }  # fmt: skip
    facts: list[Fact] = [
        TrajectoryBegun(trajectory=Trajectory(**(values | fields)), test_paths=PATHS, initial_commit="0" * 40),
        SessionBegun(session_id="s1", at=BEGAN_AT, agent_version="1.2"),
        TurnBegun(turn=1, session_id="s1", prompt="Sort the numbers.", at=BEGAN_AT),
    ]
    commit = "0" * 40
    for number in range(1, parts + 1):
        commits = number % 3 == 0
        before, commit = commit, f"{number:040x}" if commits else commit
        checkpoint = RepoCheckpoint(
            commit_before=before,
            commit_after=commit,
            changed_files=(ChangedFile(path="a b.py", status="modified", additions=3, deletions=1),),
            skipped_files=("big.bin",),
        )
        calls = EnvoiCall(
            call_id=f"k{number}", path="sort", commit=commit, timestamp=BEGAN_AT, duration_ms=7, status_code=200,
            error=None, counts=TestCounts(passed=1, failed=1, total=2),
        )  # fmt: skip
        facts.append(
            PartRecorded(
                part=Part(
                    part=number,
                    turn=1,
                    session_id="s1",
                    timestamp=BEGAN_AT + timedelta(seconds=number),
                    duration_ms=12,
                    event_index=2 * number,
                    part_type="patch" if commits else "tool" if number % 2 else "reasoning",
                    summary=f"part {number}",
                    content=f"text of {number} ☃ \x1b[2J",
                    tool_name="run_tests" if number == 5 else "shell" if number % 2 else None,
                    tool_status="completed" if number % 2 else None,
                    tool_input='{"command": "ls"}' if number % 2 else None,
                    tool_exit_code=0 if number % 2 else None,
                    git_commit=commit,
                    repo_checkpoint=checkpoint if commits else None,
                    patch="--- a\n+++ b\n" if commits else None,
                    envoi_calls=(calls,) if number == 5 else (),
                )
            )
        )
        at = number // 3 - 1
        if commits and at < len(passing):
            results = results_of(passing[at])
            counts = sum((result.counts for result in results), TestCounts())
            evaluation = Evaluation(commit=commit, status="completed", duration_ms=5, counts=counts, results=results)
            facts.append(EvaluationRecorded(evaluation=evaluation))
        if number % 2:
            usage = TokenUsage(input=100, cached_input=10, output=5, reasoning=2, total=105)
            facts.append(UsageRecorded(part=number, usage=usage, cost_usd=0.25, event_index=2 * number + 1))
    if reason is not None:
        facts.append(
            TrajectoryEnded(
                reason=reason,  # type: ignore[arg-type]
                total_parts=parts,
                total_turns=1,
                final_commit=commit,
                at=BEGAN_AT + timedelta(seconds=parts + 1),
            )
        )
    return facts


Store = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    return path


@pytest.fixture
def store(root: Path) -> Store:
    """Put a trace into the storage; gives its path."""

    def put(trajectory_id: str, **changes: Any) -> Path:
        path = root / trace_key(trajectory_id)
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_trace(TraceState.of(run_facts(trajectory_id, **changes)).snapshot()))
        return path

    return put


@attrs.define
class RemoteStorage:
    """A storage that is no local one, with a count of what was transferred; of S3 all but the network."""

    root: Path
    gets: list[tuple[str, int, int | None]] = attrs.field(factory=list)
    transferred_bytes: int = 0
    on_get: Callable[[str, int], None] = lambda _key, _count: None

    @property
    def _local(self) -> LocalStorage:
        return LocalStorage(self.root)

    def uri(self, key: str) -> str:
        return f"remote://{key}"

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        self.gets.append((key, start, length))
        self.on_get(key, len(self.gets))
        data = await self._local.get(key, start=start, length=length)
        self.transferred_bytes += len(data)
        return data

    async def put(self, key: str, data: bytes | Path, **words: Any) -> str:
        return await self._local.put(key, data, **words)

    async def stat(self, key: str) -> ObjectInfo | None:
        return await self._local.stat(key)

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        return await self._local.list(prefix)

    async def delete(self, key: str) -> None:
        await self._local.delete(key)

    async def close(self) -> None:
        pass


@pytest.fixture
def remote(root: Path) -> RemoteStorage:
    return RemoteStorage(root)
