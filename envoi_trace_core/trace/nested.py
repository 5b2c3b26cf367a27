"""The structs and lists of a row: values to what Arrow takes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoi_trace_core.domain.parts import (
    ChangedFile,
    EnvoiCall,
    Evaluation,
    PathResult,
    RepoCheckpoint,
    TestCounts,
    TokenUsage,
)
from envoi_trace_core.trace.rows import TestingState

Struct = Mapping[str, Any]


def usage_struct(usage: TokenUsage | None) -> Struct | None:
    """The column `token_usage`."""
    if usage is None:
        return None
    return {
        "input": usage.input,
        "cached_input": usage.cached_input,
        "output": usage.output,
        "reasoning": usage.reasoning,
        "total": usage.total,
    }


def usage_of(struct: Struct | None) -> TokenUsage | None:
    """Back from `usage_struct`."""
    return TokenUsage(**struct) if struct is not None else None


def checkpoint_struct(checkpoint: RepoCheckpoint | None) -> Struct | None:
    """The column `repo_checkpoint`."""
    if checkpoint is None:
        return None
    return {
        "commit_before": checkpoint.commit_before,
        "commit_after": checkpoint.commit_after,
        "changed_files": [
            {"path": file.path, "status": file.status, "additions": file.additions, "deletions": file.deletions}
            for file in checkpoint.changed_files
        ],
        "skipped_files": list(checkpoint.skipped_files),
    }


def checkpoint_of(struct: Struct | None) -> RepoCheckpoint | None:
    """Back from `checkpoint_struct`."""
    if struct is None:
        return None
    return RepoCheckpoint(
        commit_before=struct["commit_before"],
        commit_after=struct["commit_after"],
        changed_files=tuple(ChangedFile(**file) for file in struct["changed_files"] or ()),
        skipped_files=tuple(struct["skipped_files"] or ()),
    )


def call_struct(call: EnvoiCall) -> Struct:
    """An item of the column `envoi_calls`."""
    return {
        "path": call.path,
        "commit": call.commit,
        "timestamp": call.timestamp,
        "duration_ms": call.duration_ms,
        "status_code": call.status_code,
        "error": call.error,
        **_counts_struct(call.counts),
    }


def call_of(struct: Struct, call_id: str) -> EnvoiCall:
    """Back from `call_struct`; the results of single paths, and the id, are in the journal only."""
    return EnvoiCall(
        call_id=call_id,
        path=struct["path"],
        commit=struct["commit"],
        timestamp=struct["timestamp"],
        duration_ms=struct["duration_ms"],
        status_code=struct["status_code"],
        error=struct["error"],
        counts=_counts_of(struct),
    )


def testing_state_struct(state: TestingState) -> Struct:
    """The column `testing_state`."""
    return {
        "solved_paths": state.solved_paths,
        "total_paths": state.total_paths,
        "latest_path": state.latest_path,
        "latest_passed": state.latest_passed,
        "latest_total": state.latest_total,
    }


def testing_state_of(struct: Struct | None) -> TestingState:
    """Back from `testing_state_struct`."""
    return TestingState(**struct) if struct is not None else TestingState()


def evaluation_struct(evaluation: Evaluation | None) -> Struct | None:
    """The column `evaluation`: one entry of `suites` a test path."""
    if evaluation is None:
        return None
    return {
        "status": evaluation.status,
        "duration_ms": evaluation.duration_ms,
        **_counts_struct(evaluation.counts),
        "suites": [{"path": result.path, **_counts_struct(result.counts)} for result in evaluation.results],
        "error": evaluation.error,
    }


def evaluation_of(struct: Struct | None, commit: str) -> Evaluation | None:
    """Back from `evaluation_struct`; the errors of single paths are in the journal only."""
    if struct is None:
        return None
    return Evaluation(
        commit=commit,
        status=struct["status"],
        duration_ms=struct["duration_ms"],
        counts=_counts_of(struct),
        results=tuple(PathResult(path=suite["path"], counts=_counts_of(suite)) for suite in struct["suites"] or ()),
        error=struct["error"],
    )


def _counts_struct(counts: TestCounts) -> dict[str, int]:
    return {"passed": counts.passed, "failed": counts.failed, "total": counts.total}


def _counts_of(struct: Struct) -> TestCounts:
    return TestCounts(passed=struct["passed"], failed=struct["failed"], total=struct["total"])
