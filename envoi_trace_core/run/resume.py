"""Going on with a trajectory: what it was, whether it is the same, and the agent's own state."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import attrs

from envoi_trace_core.domain.parts import Trajectory
from envoi_trace_core.errors import UsageError
from envoi_trace_core.run.plan import RunPlan
from envoi_trace_core.trace.fold import TraceState


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
