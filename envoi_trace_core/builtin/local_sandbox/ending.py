"""How a local sandbox ends: init is asked, then killed; then its folder goes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from envoi_trace_core.builtin.local_sandbox.control import connect
from envoi_trace_core.builtin.local_sandbox.folders import Record, SandboxFolder, remove_ended
from envoi_trace_core.errors import SandboxError, SandboxLostError

ASK_S = 12.0
KILL_S = 10.0
REMOVE_S = 120.0
MARK = "ENVOI_TRACE_SANDBOX"
"""In the environment of everything that runs in a sandbox: holds its `mark`."""

_children: dict[str, subprocess.Popen[bytes]] = {}


def own_child(folder: SandboxFolder, process: subprocess.Popen[bytes]) -> None:
    """Remember the process that this program started for a sandbox: only its parent can reap it."""
    for key, child in list(_children.items()):
        if child.poll() is not None:  # sandboxes that ended by themselves
            del _children[key]
    _children[str(folder.path)] = process


async def end_sandbox(folder: SandboxFolder, record: Record) -> None:
    """Leave no process and no folder.

    Raises:
        SandboxError: Something could not be ended or removed within its time.
    """
    with anyio.CancelScope(shield=True):
        await _end_processes(folder, record)
        with anyio.move_on_after(REMOVE_S) as scope:
            try:
                await anyio.to_thread.run_sync(remove_ended, folder, record, abandon_on_cancel=True)
            except OSError as error:
                raise SandboxError(f"The folder of the local sandbox {folder.id} can't be removed: {error}.") from error
        if scope.cancelled_caught:
            raise SandboxError(f"Removing the folder of the local sandbox {folder.id} takes too long: {folder.path}.")


async def _end_processes(folder: SandboxFolder, record: Record) -> None:
    if record.is_running():
        with anyio.move_on_after(ASK_S):
            await _ask(folder)
    with anyio.move_on_after(KILL_S):
        pause_s = 0.001
        while _is_running(folder, record):
            if record.is_running():  # else only bubblewrap, which waits for it, is left
                with contextlib.suppress(ProcessLookupError):
                    os.kill(record.pid, signal.SIGKILL)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)
        if not record.isolated:
            while living := await anyio.to_thread.run_sync(_marked_processes, folder.mark):
                for pid in living:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        return
    raise SandboxError(f"The processes of the local sandbox {folder.id} do not end (process {record.pid}).")


async def _ask(folder: SandboxFolder) -> None:
    try:
        connection = await connect(folder)
    except SandboxLostError:
        return
    try:
        await connection.send({"op": "close"})
        await connection.receive()  # comes to its end with init
    except SandboxLostError:
        pass
    finally:
        connection.close()


def _is_running(folder: SandboxFolder, record: Record) -> bool:
    child = None if record.is_replaced(folder) else _children.get(str(folder.path))
    if child is not None and child.poll() is not None:
        del _children[str(folder.path)]
        child = None
    return record.is_running() or child is not None


def _marked_processes(value: str) -> list[int]:
    """What outlived an init that was killed: without isolation, its orphans can be told only by their environment."""
    if not sys.platform.startswith("linux"):
        return []
    mark = f"{MARK}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
