"""Going on with a trajectory: what it was, whether it is the same, and the agent's own state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.domain.parts import Trajectory
from envoi_trace_core.errors import KeyMissingError, UsageError
from envoi_trace_core.options import secret_options, with_absolute_paths
from envoi_trace_core.protocols import Storage
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.outcome import RunEnd, RunOutcome
from envoi_trace_core.run.plan import RunPlan
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.keys import bundle_key, journal_path, resume_prefix, trace_key
from envoi_trace_core.trace.reader import TraceHeader, read_header

SOLVED_BEFORE = RunEnd(reason="solved", message="it was solved before: nothing was started")


def new_trajectory(plan: RunPlan, known: Trajectory | None) -> Trajectory:
    """What is true of the whole trajectory; of one that goes on, when and by which version it began."""
    config = plan.config
    return Trajectory(
        trajectory_id=config.trajectory_id,
        agent=config.agent,
        agent_version=known.agent_version if known else None,
        model=config.model,
        sandbox=config.sandbox,
        task=plan.task.name,
        environment=plan.environment.name,
        task_params=json.dumps(plan.task.params, sort_keys=True),
        started_at=known.started_at if known else datetime.now(UTC),
        envoi_trace_version=known.envoi_trace_version if known else version("envoi-trace"),
        forked_from=config.forked_from,
        forked_at_part=config.forked_at_part,
        batch=config.batch,
        trial=config.trial,
        labels=dict(config.labels),
        task_hash=plan.task.content_hash,
        environment_hash=plan.environment.content_hash,
    )


def check_same_run(plan: RunPlan, state: TraceState) -> None:
    """Refuse to mix two runs under one id.

    Raises:
        UsageError: The stored trajectory is of another agent, task or environment.
    """
    known = state.trajectory
    if known is None:
        return
    asked = new_trajectory(plan, known)
    for field in ("agent", "task", "environment"):
        before, now = getattr(known, field), getattr(asked, field)
        if before != now:
            raise UsageError(
                f"trajectory {known.trajectory_id} is of {field} {before!r}, and {now!r} was asked for",
                mend=f"give --{'env' if field == 'environment' else field} as before, or another --trajectory-id",
            )


def stored_config(plan: RunPlan) -> RunConfig:
    """The configuration as it is stored: without the options whose values are secret, and with no relative path."""
    config = plan.config
    return attrs.evolve(
        config,
        agent_opts=_storable(config.agent_opts, plan.agent.spec.options),
        sandbox_opts=_storable(config.sandbox_opts, plan.sandbox.spec.options),
        storage_opts=_storable(config.storage_opts, plan.storage.spec.options),
    )


def _storable(words: Sequence[str], options_class: type[Any]) -> tuple[str, ...]:
    return with_absolute_paths(options_class, without_secrets(words, options_class))


def without_secrets(words: Sequence[str], options_class: type[Any]) -> tuple[str, ...]:
    """`KEY=VALUE` words, less those of secret options."""
    secret = secret_options(options_class)
    return tuple(word for word in words if word.partition("=")[0].strip().replace("-", "_") not in secret)


async def solved_before(plan: RunPlan) -> RunOutcome | None:
    """How a run ended that was solved, and of which only the artifacts are left; None when it may go on, or begin.

    Raises:
        UsageError: There is a trace of that id, and nothing to go on with: it would be overwritten.
        StorageError: The storage can't be reached.
    """
    trajectory_id = plan.config.trajectory_id
    if journal_path(trajectory_id).exists():
        return None
    storage = await plan.storage.spec.create(plan.storage.options)
    try:
        solved = await solved_outcome(storage, trajectory_id)
        if solved is not None or await storage.stat(trace_key(trajectory_id)) is None:
            return solved
        if await storage.list(f"{resume_prefix(trajectory_id)}journal/"):
            return None
    finally:
        await storage.close()
    raise UsageError(
        f"{storage.uri(trace_key(trajectory_id))} exists, and nothing that its run could go on with",
        mend="another --trajectory-id, or none for a new one",
    )


async def solved_outcome(storage: Storage, trajectory_id: str) -> RunOutcome | None:
    """How a trajectory ended, if its trace says that it was solved.

    Raises:
        StorageError: The storage can't be reached.
        TraceFormatError: What stands there is no trace.
    """
    try:
        header = await read_header(storage, trace_key(trajectory_id))
    except KeyMissingError:
        return None
    is_solved = header.end is not None and header.end.reason == "solved"
    return _outcome_of(header, storage) if is_solved else None


def _outcome_of(header: TraceHeader, storage: Storage) -> RunOutcome:
    trajectory_id, summary = header.trajectory.trajectory_id, header.summary
    return RunOutcome(
        trajectory_id=trajectory_id,
        reason=SOLVED_BEFORE.reason,
        message=SOLVED_BEFORE.message,
        parts=summary.parts,
        turns=summary.turns,
        solved_paths=summary.total_paths,
        total_paths=summary.total_paths,
        final_commit=header.end.final_commit if header.end else None,
        trace_uri=storage.uri(trace_key(trajectory_id)),
        bundle_uri=storage.uri(bundle_key(trajectory_id)),
        token_usage=summary.token_usage,
        cost_usd=summary.cost_usd,
        best_share=summary.best_share,
    )


@attrs.frozen(kw_only=True)
class AgentStateFile:
    """The agent's newest saved state, one file a session, in the trajectory's folder on this machine."""

    folder: Path

    def path(self, session_id: str) -> Path:
        """Where a session's state stands; the name tells nothing that an agent could have chosen."""
        return self.folder / f"agent-state-{hashlib.sha256(session_id.encode()).hexdigest()[:16]}"

    def read(self, session_id: str) -> bytes | None:
        """A session's state; None when none was saved."""
        try:
            return self.path(session_id).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, session_id: str, archive: bytes) -> None:
        """Keep a session's state, whole or not at all."""
        path = self.path(session_id)
        partial = path.with_suffix(".tmp")
        partial.write_bytes(archive)
        partial.replace(path)
