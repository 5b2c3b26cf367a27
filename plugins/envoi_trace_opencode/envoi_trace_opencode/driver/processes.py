"""Processes of the agent: found by a mark in their environment, and ended whatever becomes of us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

MARK_VARIABLE = "ENVOI_TRACE_OPENCODE_COMMAND"
"""In the environment of the agent's commands only."""
SERVER_MARK_VARIABLE = "ENVOI_TRACE_OPENCODE_SERVER"
"""In that of the server and what it starts itself."""
SWEEP_ROUNDS = 100
PROC = Path("/proc")


def kill_group(group: int) -> None:
    """Kill a process group. Fine when it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_marked(mark: str, variable: str = MARK_VARIABLE) -> None:
    """Kill every command of the agent, and all that stands below one; or every server that was left."""
    pause_s = 0.002
    for _round in range(SWEEP_ROUNDS):
        doomed = _with_descendants(_marked(f"{variable}={mark}".encode()))
        if not doomed:
            return
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)


def _marked(words: bytes) -> set[int]:
    if not (PROC / "self" / "environ").exists():
        told = subprocess.run(["ps", "-Aww", "-E", "-o", "pid=,command="], capture_output=True, check=False).stdout
        return {int(line.split(None, 1)[0]) for line in told.splitlines() if words in line}
    found = set()
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = b"\0" + (folder / "environ").read_bytes()
            state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0]
            if b"\0" + words + b"\0" in environment and state not in (b"Z", b"X"):
                found.add(int(folder.name))
    return found


def _with_descendants(roots: set[int]) -> list[int]:
    """Parents before their children: a shell whose child dies first would go on to its next command."""
    if not roots:
        return []
    told = _parents()
    doomed: list[int] = []
    generation = [pid for pid in roots if told.get(pid) not in roots]
    while generation:
        doomed += generation
        generation = [pid for pid, parent in told.items() if parent in generation and pid not in doomed]
    return doomed


def _parents() -> dict[int, int]:
    if not (PROC / "self" / "stat").exists():
        told = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=False).stdout
        return {int(pid): int(parent) for pid, parent in (line.split() for line in told.splitlines())}
    found = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                found[int(folder.name)] = int(fields[1])
    return found


def hide_variable(pid: int, name: str, value: str) -> bool:
    """Overwrite a variable in a process's own memory, so that its environment shows it to nobody.

    The program must have read it already. Says whether it worked: it needs Linux, and leave to write there.
    """
    wanted = f"{name}={value}".encode()
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
        start = int((PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[47])
        at = (b"\0" + environment).find(b"\0" + wanted + b"\0")
        if at < 0:
            return False
        with (PROC / str(pid) / "mem").open("r+b", buffering=0) as memory:
            memory.seek(start + at + len(name) + 1)
            memory.write(b"x" * len(value.encode()))
        return wanted not in (PROC / str(pid) / "environ").read_bytes()
    except (OSError, ValueError, IndexError):
        return False


def keep_memory_private() -> None:
    """Let no other process of this user read our memory, where the provider's key is. Linux only; else nothing."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


class Guard:
    """A process beside the driver that cleans up when the driver is killed: server and commands."""

    def __init__(self, mark: str) -> None:
        """Fork it; call this before any thread is started."""
        reader, self._writer = os.pipe()
        if os.fork() == 0:
            os.close(self._writer)
            _watch(reader, mark)
        os.close(reader)

    def watch_group(self, group: int) -> None:
        """Kill that process group too, should the driver die."""
        os.write(self._writer, b"%d\n" % group)


def _watch(reader: int, mark: str) -> None:
    """Wait for the driver's end. Does not return."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with os.fdopen(reader, "rb") as lines:
        groups = [int(line) for line in lines]
    for group in groups[-1:]:  # earlier ones have ended, and their numbers may be others' by now
        kill_group(group)
    with contextlib.suppress(Exception):
        kill_marked(mark, SERVER_MARK_VARIABLE)
        kill_marked(mark)
    os._exit(0)
