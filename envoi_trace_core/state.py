"""Where this machine keeps what belongs to runs and is no artifact: journals, mirrors, local sandboxes."""

from __future__ import annotations

import os
from pathlib import Path


def state_dir() -> Path:
    """The user's state directory for envoi-trace; `ENVOI_TRACE_STATE_DIR` overrides it. May not exist yet."""
    override = os.environ.get("ENVOI_TRACE_STATE_DIR")
    if override:
        return Path(override).absolute()
    from platformdirs import user_state_path

    return user_state_path("envoi-trace")


def trajectory_dir(trajectory_id: str) -> Path:
    """The folder of one trajectory's journal, events log and mirror. May not exist yet."""
    return state_dir() / "trajectories" / trajectory_id
