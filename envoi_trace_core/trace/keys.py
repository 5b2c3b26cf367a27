"""Where a trajectory's objects stand in a storage, and its logs on this machine."""

from __future__ import annotations

from pathlib import Path

from envoi_trace_core.state import trajectory_dir

TRAJECTORIES = "trajectories/"


def trace_key(trajectory_id: str) -> str:
    """The key of `trace.parquet`."""
    return f"{TRAJECTORIES}{trajectory_id}/trace.parquet"


def bundle_key(trajectory_id: str) -> str:
    """The key of `repo.bundle`."""
    return f"{TRAJECTORIES}{trajectory_id}/repo.bundle"


def events_key(trajectory_id: str) -> str:
    """The key of `events.jsonl.zst`."""
    return f"{TRAJECTORIES}{trajectory_id}/events.jsonl.zst"


def resume_prefix(trajectory_id: str) -> str:
    """The prefix of everything that only a resume needs."""
    return f"{TRAJECTORIES}{trajectory_id}/resume/"


def lease_key(trajectory_id: str) -> str:
    """The key of the lease."""
    return f"{resume_prefix(trajectory_id)}lease.json"


def config_key(trajectory_id: str) -> str:
    """The key of the run's configuration."""
    return f"{resume_prefix(trajectory_id)}config.json"


def stop_key(trajectory_id: str) -> str:
    """The key of a request to stop."""
    return f"{resume_prefix(trajectory_id)}stop.json"


def restart_key(trajectory_id: str) -> str:
    """The key of what says that a failed run waits to go on."""
    return f"{resume_prefix(trajectory_id)}restart.json"


def log_key(trajectory_id: str) -> str:
    """The key of what the run told, line by line."""
    return f"{TRAJECTORIES}{trajectory_id}/run.log"


def log_pieces_prefix(trajectory_id: str) -> str:
    """The prefix of the log's pieces, while it grows."""
    return f"{resume_prefix(trajectory_id)}log/"


def journal_path(trajectory_id: str) -> Path:
    """The journal on this machine; it may not exist."""
    return trajectory_dir(trajectory_id) / "journal.jsonl"


def events_path(trajectory_id: str) -> Path:
    """The events log on this machine; it may not exist."""
    return trajectory_dir(trajectory_id) / "events.jsonl"


def log_path(trajectory_id: str) -> Path:
    """The run's log on this machine; it may not exist."""
    return trajectory_dir(trajectory_id) / "run.log"
