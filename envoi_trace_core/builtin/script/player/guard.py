"""Kills what the player started when the player itself is killed.

Commands run in process groups of their own, so that a deadline can kill one; the price is that a SIGKILL of the
player's group does not reach them. A forked child waits for the end of a pipe that only the player holds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any


def kill_group(group: int) -> None:
    """Kill a process group. Fine when it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


class Guard:
    """Starts processes in groups of their own, none of which outlives the player."""

    def __init__(self) -> None:
        """Fork the watching child; call it before any thread is started."""
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(writer)
            _watch(reader)
        os.close(reader)
        self._writer = writer

    def start(self, argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process as the leader of a group of its own."""
        process = subprocess.Popen(argv, start_new_session=True, **options)
        os.write(self._writer, b"+%d\n" % process.pid)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of a process's group, and reap it."""
        kill_group(process.pid)
        process.wait()
        os.write(self._writer, b"-%d\n" % process.pid)


def _watch(reader: int) -> None:
    """Wait for the player's end, and kill the groups that it left. Does not return."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    groups = set()
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            group = int(line[1:])
            if line.startswith(b"+"):
                groups.add(group)
            else:
                groups.discard(group)
    for group in groups:
        kill_group(group)
    os._exit(0)
