"""The system's own bounds, where many trajectories in one process meet them."""

from __future__ import annotations

from contextlib import suppress

FILES_A_TRAJECTORY = 64
"""Open files that one may need at its busiest; some 20 were seen."""
FILES_BESIDE = 256


def allow_open_files(trajectories_at_once: int) -> None:
    """Raise this process's bound on open files when it is too low for that many, as far as the system lets it."""
    try:
        import resource
    except ImportError:  # no POSIX system
        return
    wanted = FILES_BESIDE + FILES_A_TRAJECTORY * trajectories_at_once
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
