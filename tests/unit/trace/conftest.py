"""Trajectories that the tests make up, and a storage that fails as real ones do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.domain.facts import (
    EvaluationRecorded,
    EventsUnparsed,
    Fact,
    PartRecorded,
    SessionBegun,
    TrajectoryBegun,
    TurnBegun,
    UsageRecorded,
)
from envoi_trace_core.domain.parts import (
    ChangedFile,
    EnvoiCall,
    Evaluation,
    EvaluationStatus,
    Part,
    PathResult,
    RepoCheckpoint,
    TestCounts,
    TokenUsage,
    Trajectory,
)
from envoi_trace_core.errors import StorageError
from envoi_trace_core.protocols import Absent, AtVersion, ObjectInfo

BEGAN_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PATHS = ("sort/small", "sort/large", "format")


@attrs.frozen
class Make:
    """Makes facts with as few words as a test needs."""

    paths: tuple[str, ...] = PATHS
    began_at: datetime = BEGAN_AT

    def trajectory(self, trajectory_id: str = "t1", **fields: object) -> Trajectory:
        values = {
            "trajectory_id": trajectory_id,
            "agent": "script",
            "sandbox": "local",
            "task": "merge_sort",
            "environment": "merge_sort",
            "started_at": BEGAN_AT,
            "envoi_trace_version": "0.1.0",
            "labels": {"team": "a"},
            "trial": 3,
        }
        return Trajectory(**{**values, **fields})

    def begun(self, trajectory_id: str = "t1", **fields: object) -> TrajectoryBegun:
        return TrajectoryBegun(
            trajectory=self.trajectory(trajectory_id, **fields), test_paths=PATHS, initial_commit="c0"
        )

    def session(self, session_id: str = "s1", version: str | None = "1.2") -> SessionBegun:
        return SessionBegun(session_id=session_id, at=BEGAN_AT, agent_version=version)

    def turn(self, turn: int = 1, prompt: str = "Sort.") -> TurnBegun:
        return TurnBegun(turn=turn, session_id="s1", prompt=prompt, at=BEGAN_AT)

    def part(
        self,
        number: int,
        *,
        turn: int = 1,
        commit: str | None = None,
        calls: Sequence[EnvoiCall] = (),
        content: str | None = "text",
        **fields: object,
    ) -> PartRecorded:
        checkpoint = None
        if commit is not None:
            checkpoint = RepoCheckpoint(
                commit_before="c0",
                commit_after=commit,
                changed_files=(
                    ChangedFile(path="a b.py", status="modified", additions=3, deletions=1),
                    ChangedFile(path="x.png", status="added", additions=None, deletions=None),
                ),
                skipped_files=("big.bin",),
            )
        part = Part(
            part=number,
            turn=turn,
            session_id="s1",
            timestamp=BEGAN_AT + timedelta(seconds=number),
            duration_ms=12,
            event_index=2 * number,
            part_type="tool",
            summary=f"part {number}",
            content=content,
            tool_name="shell",
            tool_status="completed",
            tool_input='{"command":"ls"}',
            tool_exit_code=0,
            git_commit=commit or "c0",
            repo_checkpoint=checkpoint,
            patch="diff" if commit else None,
            envoi_calls=tuple(calls),
        )
        return PartRecorded(part=attrs.evolve(part, **fields))

    def result(self, path: str, passed: bool, error: str | None = None) -> PathResult:
        return PathResult(
            path=path, counts=TestCounts(passed=2 * passed, failed=2 * (not passed), total=2), error=error
        )

    def call(self, call_id: str, results: dict[str, bool], *, path: str = "", status_code: int = 200) -> EnvoiCall:
        made = tuple(self.result(name, passed) for name, passed in results.items())
        return EnvoiCall(
            call_id=call_id,
            path=path,
            commit="c0",
            timestamp=BEGAN_AT,
            duration_ms=7,
            status_code=status_code,
            error=None,
            counts=sum((each.counts for each in made), TestCounts()),
            results=made,
        )

    def evaluation(
        self, commit: str, results: dict[str, bool], status: EvaluationStatus = "completed"
    ) -> EvaluationRecorded:
        made = tuple(self.result(name, passed) for name, passed in results.items())
        counts = sum((each.counts for each in made), TestCounts())
        return EvaluationRecorded(
            evaluation=Evaluation(commit=commit, status=status, duration_ms=5, counts=counts, results=made)
        )

    def usage(self, part: int, tokens: int, cost_usd: float | None = None) -> UsageRecorded:
        usage = TokenUsage(input=tokens, output=1, total=tokens + 1)
        return UsageRecorded(part=part, usage=usage, cost_usd=cost_usd, event_index=2 * part + 1)

    def unparsed(self, index: int) -> EventsUnparsed:
        return EventsUnparsed(event_index=index, reason="strange")

    def run(self, parts: int) -> list[Fact]:
        """A whole little run, in progress."""
        facts: list[Fact] = [self.begun(), self.session(), self.turn()]
        for number in range(1, parts + 1):
            calls = [self.call(f"k{number}", {"sort/small": True})] if number % 5 == 4 else []
            facts.append(self.part(number, commit=f"c{number}" if number % 3 == 0 else None, calls=calls))
            if number % 3 == 0:
                facts.append(self.evaluation(f"c{number}", dict.fromkeys(PATHS, number % 2 == 0)))
            if number % 4 == 0:
                facts.append(self.usage(number, 10 * number, 0.25))
        return facts


@pytest.fixture
def make() -> Make:
    return Make()


@attrs.define
class FailingStorage:
    """A local storage whose connection can be cut, and whose answers can be lost."""

    root: Path
    is_down: bool = False
    lose_answers: int = 0
    puts: int = 0

    @property
    def _storage(self) -> LocalStorage:
        if self.is_down:
            raise StorageError("the store is down", retryable=True)
        return LocalStorage(self.root)

    def uri(self, key: str) -> str:
        return LocalStorage(self.root).uri(key)

    async def put(self, key: str, data: bytes | Path, *, condition: Absent | AtVersion | None = None) -> str:
        version = await self._storage.put(key, data, condition=condition)
        self.puts += 1
        if self.lose_answers:
            self.lose_answers -= 1
            raise StorageError("the connection was reset", retryable=True)
        return version

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return await self._storage.get(key, start=start, length=length)

    async def stat(self, key: str) -> ObjectInfo | None:
        return await self._storage.stat(key)

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        return await self._storage.list(prefix)

    async def delete(self, key: str) -> None:
        await self._storage.delete(key)

    async def close(self) -> None:
        pass


@pytest.fixture
def storage(tmp_path: Path) -> FailingStorage:
    root = tmp_path / "storage"
    root.mkdir()
    return FailingStorage(root)
