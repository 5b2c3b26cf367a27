"""Making, finding and listing local sandboxes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from envoi_trace_core.builtin.local_sandbox import isolation
from envoi_trace_core.builtin.local_sandbox.control import call
from envoi_trace_core.builtin.local_sandbox.ending import own_child
from envoi_trace_core.builtin.local_sandbox.environment import base_environment, ca_files, readable_paths
from envoi_trace_core.builtin.local_sandbox.folders import (
    Record,
    SandboxFolder,
    all_folders,
    creation_lock,
    folder_for_id,
    folder_for_name,
    process_start,
    remove_folder,
    sandboxes_root,
    sweep,
)
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.builtin.local_sandbox.sandbox import LocalSandbox
from envoi_trace_core.errors import EnvoiTraceError, SandboxError, SandboxLostError, UsageError
from envoi_trace_core.protocols import SandboxInfo
from envoi_trace_core.specs import SandboxRequest

LOG_TAIL_BYTES = 2000
_not_built: set[Path] = set()
"""Dockerfiles of which was said that they are not built: a trajectory has two sandboxes, a batch hundreds."""


async def create(request: SandboxRequest, options: LocalSandboxOptions) -> LocalSandbox:
    """Make a sandbox; when one of that name lives already, that one.

    Raises:
        UsageError: It can't be isolated as it must be, or an option is wrong.
        SandboxError: It did not start.
    """
    program = await anyio.to_thread.run_sync(_choose_isolation, request, options)
    if request.dockerfile is not None and request.dockerfile not in _not_built:
        _not_built.add(request.dockerfile)
        request.report(f"The local sandbox uses this machine's own tools; {request.dockerfile.name} is not built.")
    # Not abandoned when cancelled: what was started is then found, and removed below.
    folder, made = await anyio.to_thread.run_sync(_find_or_start, request, options, program)
    try:
        sandbox = await _greet(folder)
    except BaseException as error:
        if made:
            with anyio.CancelScope(shield=True):
                said = await anyio.to_thread.run_sync(_log_tail, folder)
                await _discard(folder)
            if isinstance(error, SandboxLostError):
                raise SandboxError(f"The local sandbox did not start. {said}".strip()) from error
        raise
    return sandbox


async def attach(sandbox_id: str, options: LocalSandboxOptions) -> LocalSandbox:
    """Find a sandbox that lives, made by any program of this user.

    Raises:
        SandboxLostError: It does not live.
    """
    return await _greet(folder_for_id(options, sandbox_id))


async def list_live(options: LocalSandboxOptions) -> Sequence[SandboxInfo]:
    """Every local sandbox that lives below the options' root."""

    def look() -> list[SandboxInfo]:
        return [
            SandboxInfo(
                id=folder.id, trajectory_id=record.trajectory_id, role=record.role, created_at=record.created_at
            )
            for folder in all_folders(options)
            if (record := Record.load(folder)) is not None and record.is_running()
        ]

    return await anyio.to_thread.run_sync(look)


async def examine(options: LocalSandboxOptions) -> str:
    """Whether an agent would be kept apart from this machine.

    Raises:
        UsageError: It can't be, and must be.
    """
    if options.isolation == "none":
        return "without isolation, as asked"
    program = await anyio.to_thread.run_sync(isolation.bubblewrap)
    if program is None:
        raise _no_bubblewrap()
    return f"isolated by {program}"


def _choose_isolation(request: SandboxRequest, options: LocalSandboxOptions) -> str | None:
    """The bubblewrap to use, or None to run without isolation."""
    program = None if options.isolation == "none" else isolation.bubblewrap()
    if program is not None:
        return program
    if options.isolation == "bwrap" or (options.isolation == "auto" and request.runs_model):
        raise _no_bubblewrap()
    if options.network == "off":
        raise UsageError(
            "Without bubblewrap the local sandbox can't switch the network off.",
            mend="install bubblewrap (apt install bubblewrap), or leave out --sandbox-opt network=off",
        )
    if options.isolation == "auto":
        request.report("Warning: bubblewrap does not work here, so the local sandbox runs without isolation.")
    return None


def _no_bubblewrap() -> UsageError:
    return UsageError(
        "The local sandbox needs bubblewrap to keep an agent apart from this machine, and it does not work here.",
        mend="install bubblewrap (apt install bubblewrap), or accept an agent without isolation: "
        "--sandbox-opt isolation=none",
    )


def _find_or_start(
    request: SandboxRequest, options: LocalSandboxOptions, program: str | None
) -> tuple[SandboxFolder, bool]:
    folder = folder_for_name(options, request.name)
    read = readable_paths(options.read)
    with creation_lock(sandboxes_root(options)):
        record = Record.load(folder)
        if record is not None and record.is_running():
            return folder, False
        sweep(options)
        try:
            folder.make()
            for name, content in isolation.account_files().items():
                (folder.path / name).write_text(content)
        except OSError as error:
            raise SandboxError(f"The local sandbox's folder {folder.path} can't be made: {error.strerror}.") from error
        try:
            created_at, bound_s = datetime.now(UTC), options.max_lifetime_s
            lifetime_s = min(request.lifetime_s, bound_s or request.lifetime_s)
            pid = _start_init(folder, lifetime_s, program, network=options.network == "on", read=read)
            Record(
                trajectory_id=request.trajectory_id,
                role=request.role,
                created_at=created_at,
                isolated=program is not None,
                pid=pid,
                pid_started=process_start(pid),
                ends_at=created_at + timedelta(seconds=bound_s) if bound_s else None,
            ).save(folder)
        except BaseException:
            remove_folder(folder)
            raise
    return folder, True


def _start_init(
    folder: SandboxFolder, lifetime_s: float, program: str | None, *, network: bool, read: Sequence[Path]
) -> int:
    """Start init; gives its pid on the host."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        with folder.socket_address() as address:
            listener.bind(address)
        listener.listen(128)
        log = stack.enter_context(folder.log.open("wb"))
        config = {"listen_fd": listener.fileno(), "isolated": program is not None, "lifetime_s": lifetime_s}
        init = isolation.INIT_INSIDE if program else str(Path(isolation.__file__).with_name("init.py"))
        argv = [sys.executable, "-I", "-S", init, json.dumps(config)]
        fds = [listener.fileno()]
        info_end = -1
        if program is not None:
            wrapped = isolation.bubblewrap_argv(program, folder, network=network, read=read, ca_files=ca_files())
            info, info_end = os.pipe()
            stack.callback(os.close, info)
            argv = [*wrapped, "--info-fd", str(info_end), "--", *argv]
            fds.append(info_end)
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=base_environment(folder, isolated=program is not None, read=read),
                cwd="/" if program else folder.workspace,
                pass_fds=fds,
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"The local sandbox did not start: {error}.") from error
        finally:
            if info_end >= 0:
                os.close(info_end)
        own_child(folder, process)
        if program is None:
            return process.pid
        return _inner_pid(info) or _failed_start(folder, process)


def _inner_pid(info: int) -> int | None:
    """The pid of the namespace's first process: killing that one ends all; bubblewrap itself only waits."""
    said = b""
    while chunk := os.read(info, 4096):
        said += chunk
        try:
            found: dict[str, Any] = json.loads(said)
        except ValueError:
            continue
        return int(found["child-pid"])
    return None


def _failed_start(folder: SandboxFolder, process: subprocess.Popen[bytes]) -> int:
    process.kill()
    process.wait()
    raise SandboxError(f"bubblewrap could not make the local sandbox. {_log_tail(folder)}".strip())


def _log_tail(folder: SandboxFolder) -> str:
    try:
        return folder.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""


async def _greet(folder: SandboxFolder) -> LocalSandbox:
    record = await anyio.to_thread.run_sync(Record.load, folder)
    if record is None or not record.is_running():
        raise SandboxLostError(f"The local sandbox {folder.id} has ended.")
    await call(folder, {"op": "ping"})
    return LocalSandbox(folder, record)


async def _discard(folder: SandboxFolder) -> None:
    record = Record.load(folder)
    try:
        if record is not None:
            await LocalSandbox(folder, record).close()
        else:
            await anyio.to_thread.run_sync(remove_folder, folder)
    except (EnvoiTraceError, OSError):
        pass  # the first error says more; the next creation sweeps
