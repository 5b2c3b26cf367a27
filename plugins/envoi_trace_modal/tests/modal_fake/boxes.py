"""One fake sandbox: a machine of the E2B plugin's fake (a process namespace), and what `exec` started in it.

Outputs are kept for any number of readers from any offset, as Modal's router keeps them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from e2b_fake.machine import Machine

FILE_TOOL = "/__modal/.bin/modal-sandbox-fs-tools"
MAX_ARGUMENT_BYTES = 64 * 1024
READ_BYTES = 1 << 18


class Buffer:
    """A log of bytes that is only appended to."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_ended = False
        self._changed = asyncio.Event()

    def feed(self, chunk: bytes) -> None:
        self.data += chunk
        self._wake()

    def end(self) -> None:
        self.is_ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read_from(self, offset: int) -> AsyncIterator[bytes]:
        while True:
            if offset < len(self.data):
                chunk = bytes(self.data[offset : offset + READ_BYTES])
                offset += len(chunk)
                yield chunk
            elif self.is_ended:
                return
            else:
                await self._changed.wait()


class Process:
    """What one `exec` started."""

    def __init__(self) -> None:
        self.out, self.err = Buffer(), Buffer()
        self.done = asyncio.Event()
        self.exit_code: int | None = None
        """Negative for a signal."""
        self.fed_bytes = 0
        self.is_input_closed = False

    async def feed(self, data: bytes, *, ends: bool = False) -> None:
        raise NotImplementedError

    def end(self, code: int) -> None:
        if self.exit_code is None:
            self.exit_code = code
            self.done.set()


class Command(Process):
    """A real process in the machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine
        self._tasks: list[asyncio.Task[None]] = []
        self._input = -1

    async def start(self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], timeout_s: float | None) -> None:
        """Start it.

        Raises:
            OSError: It can't be started.
        """
        pipes = [os.pipe() for _ in range(3)]
        (theirs_in, self._input), (out, theirs_out), (err, theirs_err) = pipes
        theirs = [theirs_in, theirs_out, theirs_err]
        try:
            self._pid, exited = await self._machine.spawn(argv, cwd=cwd, env=env, fds=theirs)
        except BaseException:
            for fd in (self._input, out, err):
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        os.set_blocking(self._input, False)
        pumps = [asyncio.create_task(_pump(fd, buffer)) for fd, buffer in ((out, self.out), (err, self.err))]
        self._tasks = [*pumps, asyncio.create_task(self._watch(exited, timeout_s))]

    async def _watch(self, exited: asyncio.Future[int], timeout_s: float | None) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(exited), timeout_s)
            if not exited.done():
                await self._machine.call("signal", pid=self._pid, signal=signal.SIGKILL)
            self.end(await exited)
        except ConnectionError:
            self.end(-signal.SIGKILL)
        self._close_input()

    async def feed(self, data: bytes, *, ends: bool = False) -> None:
        view = memoryview(data)
        while view and not self.done.is_set():
            try:
                written = os.write(self._input, view)
            except BlockingIOError:
                await asyncio.sleep(0.002)
                continue
            except OSError:
                break  # it reads no more
            view = view[written:]
        self.fed_bytes += len(data)
        if ends:
            self.is_input_closed = True
            self._close_input()

    def _close_input(self) -> None:
        if self._input >= 0:
            os.close(self._input)
            self._input = -1


async def _pump(fd: int, buffer: Buffer) -> None:
    reader = asyncio.StreamReader(limit=READ_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    try:
        while chunk := await reader.read(READ_BYTES):
            buffer.feed(chunk)
    finally:
        transport.close()
        buffer.end()


ERRORS = {
    FileNotFoundError: "NotFound",
    IsADirectoryError: "IsDirectory",
    NotADirectoryError: "NotDirectory",
    PermissionError: "PermissionDenied",
    FileExistsError: "PathAlreadyExists",
}


class FileTool(Process):
    """Stands in for the program that `sandbox.filesystem` starts."""

    def __init__(self, root: Path, request: Mapping[str, Any]) -> None:
        super().__init__()
        self._operation, self._arguments = next(iter(request.items()))
        self._path = root / self._arguments["path"].lstrip("/")
        self._given = bytearray()
        if self._operation != "WriteFile":
            self._do()

    async def feed(self, data: bytes, *, ends: bool = False) -> None:
        self._given += data
        self.fed_bytes += len(data)
        if ends:
            self.is_input_closed = True
            self._do()

    def _do(self) -> None:
        try:
            self.out.feed(self._result())
            code = 0
        except OSError as error:
            kind = ERRORS.get(type(error), "Other")
            self.err.feed(json.dumps({"error_kind": kind, "message": error.strerror}).encode())
            code = 1
        self.out.end()
        self.err.end()
        self.end(code)

    def _result(self) -> bytes:
        path = self._path
        match self._operation:
            case "ReadFile":
                return path.read_bytes()
            case "WriteFile":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._given)
            case "MakeDirectory":
                path.mkdir(parents=self._arguments["parents"], exist_ok=self._arguments["parents"])
            case "Remove":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            case "Stat":
                found = path.lstat()
                info = {"name": path.name, "path": self._arguments["path"], "type": "file", "size": found.st_size}
                more = {"mode": found.st_mode, "permissions": stat.filemode(found.st_mode), "owner": "0", "group": "0"}
                return json.dumps({**info, **more, "modified_time": found.st_mtime}).encode()
            case other:
                raise OSError(38, f"the fake has no {other}")
        return b""


class Box:
    """A machine, and its processes by the id of their `exec`."""

    def __init__(self, root: Path, *, workdir: str, env: Mapping[str, str]) -> None:
        self.machine = Machine(root, {"HOME": "/root", "USER": "root", **env})
        self.workdir = workdir
        self.processes: dict[str, Process] = {}

    async def start(self, links: Mapping[str, Path]) -> None:
        """Boot it.

        Args:
            links: Paths inside that lead to folders of the host which the machine can see.
        """
        await self.machine.start()
        (self.machine.root / self.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for path, target in links.items():
            link = self.machine.root / path.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)

    async def exec(
        self, exec_id: str, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], timeout_s: float | None
    ) -> None:
        """Start a command; its id makes that idempotent.

        Raises:
            OSError: It can't be started.
            ValueError: It is longer than Modal takes.
        """
        if exec_id in self.processes:
            return
        if sum(len(word.encode()) for word in argv) > MAX_ARGUMENT_BYTES:
            raise ValueError(f"Total length of CMD arguments must be less than {MAX_ARGUMENT_BYTES} bytes")
        if argv[0] == FILE_TOOL:
            self.processes[exec_id] = FileTool(self.machine.root, json.loads(argv[1]))
            return
        command = Command(self.machine)
        self.processes[exec_id] = command
        try:
            await command.start(argv, cwd=cwd or self.workdir, env=env, timeout_s=timeout_s)
        except BaseException:
            del self.processes[exec_id]
            raise

    def kill(self) -> None:
        self.machine.kill()
        for process in self.processes.values():
            process.out.end()
            process.err.end()
            process.end(-signal.SIGKILL)
