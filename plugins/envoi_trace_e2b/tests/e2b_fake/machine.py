"""One fake sandbox as a machine: a folder that bubblewrap makes the root of a process namespace."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEEPER = Path(__file__).with_name("keeper.py")
SYSTEM_FOLDERS = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64")
INSIDE = "/run/keeper.py"
PATH_INSIDE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_S = 30.0


def tests_pythons() -> list[Path]:
    """Folders that hold the Python of the tests, with all that is installed in it."""
    return list(dict.fromkeys([Path(sys.prefix), Path(sys.base_prefix).resolve()]))


class Machine:
    """Starts processes and opens files inside. Lives on the event loop of the fake."""

    def __init__(self, root: Path, user_env: Mapping[str, str]) -> None:
        self.root = root
        self.env = {"PATH": PATH_INSIDE, "HOME": "/home/user", "LANG": "C.UTF-8", "USER": "user", **user_env}
        self.is_dead = False
        self.on_exit: dict[int, asyncio.Future[int]] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._early_exits: dict[int, int] = {}

    async def start(self) -> None:
        for name in ("tmp", "root", "run", "home/user", "opt", "var/tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(KEEPER, self.root / INSIDE[1:])
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._channel, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        os.set_inheritable(theirs.fileno(), True)
        python = os.path.realpath(sys._base_executable)  # noqa: ASYNC240 - likewise
        argv = [*self._bubblewrap(), "--", python, "-I", "-S", INSIDE, str(theirs.fileno())]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
            argv,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._channel.setblocking(False)
        self._ready = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._channel, self._receive)
        await asyncio.wait_for(asyncio.shield(self._ready), START_S)

    async def call(self, op: str, fds: Sequence[int] = (), **more: Any) -> tuple[dict[str, Any], list[int]]:
        """Ask the keeper.

        Raises:
            OSError: It could not be done inside.
            ConnectionError: The machine is dead.
        """
        if self.is_dead:
            raise ConnectionError("the machine is dead")
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        packet = json.dumps({"id": number, "op": op, **more}).encode()
        self._channel.setblocking(True)
        try:
            socket.send_fds(self._channel, [packet], list(fds))
        finally:
            self._channel.setblocking(False)
        try:
            reply, opened = await self._waiting[number]
        finally:
            self._waiting.pop(number, None)
        if "errno" in reply:
            raise OSError(reply["errno"], reply["error"])
        return reply, opened

    async def spawn(
        self, argv: Sequence[str], *, cwd: str, env: Mapping[str, str], fds: Sequence[int]
    ) -> tuple[int, asyncio.Future[int]]:
        """Start a process; gives its number inside and its exit code to come (negative: a signal)."""
        reply, _ = await self.call("spawn", fds, argv=list(argv), cwd=cwd, env={**self.env, **env})
        pid = reply["pid"]
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if pid in self._early_exits:
            future.set_result(self._early_exits.pop(pid))
        else:
            self.on_exit[pid] = future
        return pid, future

    def kill(self) -> None:
        """End everything inside, and the folder with it."""
        if self.is_dead:
            return
        self.is_dead = True
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        # A stopped keeper dies of SIGKILL too, and the kernel ends its namespace with it.
        for pid in self.pids():
            _kill(pid, signal.SIGKILL)
        _kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for future in (*self.on_exit.values(), *(waiting for waiting in self._waiting.values())):
            if not future.done():
                future.set_exception(ConnectionError("the machine died"))
                future.exception()
        shutil.rmtree(self.root, ignore_errors=True)

    def freeze(self) -> None:
        """Stop every process, as a pause does."""
        stopped: set[int] = set()
        while new := set(self.pids()) - stopped:  # what one forked meanwhile
            for pid in new:
                _kill(pid, signal.SIGSTOP)
            stopped |= new

    def thaw(self) -> None:
        for pid in self.pids():
            _kill(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """The numbers, on the host, of all processes of this machine."""
        namespace = self._namespace()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if namespace is not None and str((entry / "ns/pid").readlink()) == namespace:
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def _namespace(self) -> str | None:
        """Of the keeper: the only child of bubblewrap."""
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            return str(Path(f"/proc/{children[0]}/ns/pid").readlink())
        except (OSError, IndexError):
            return None

    def _receive(self) -> None:
        try:
            packet, fds, _flags, _address = socket.recv_fds(self._channel, 1 << 20, 4)
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            asyncio.get_running_loop().remove_reader(self._channel)
            return
        message = json.loads(packet)
        if "ready" in message:
            self._ready.set_result(None)
        elif "exited" in message:
            future = self.on_exit.pop(message["exited"], None)
            if future is None:
                self._early_exits[message["exited"]] = message["code"]
            elif not future.done():
                future.set_result(message["code"])
        else:
            self._take_reply(message, fds)

    def _take_reply(self, message: dict[str, Any], fds: list[int]) -> None:
        waiting = self._waiting.get(message["id"])
        if waiting is not None and not waiting.done():
            waiting.set_result((message, fds))
            return
        for fd in fds:  # whoever asked went away
            os.close(fd)

    def _bubblewrap(self) -> list[str]:
        argv = ["bwrap", "--unshare-pid", "--as-pid-1", "--die-with-parent", "--bind", str(self.root), "/"]
        for folder in SYSTEM_FOLDERS:
            if Path(folder).is_symlink():
                at = self.root / folder[1:]
                if not at.is_symlink():
                    at.symlink_to(Path(folder).readlink())
            elif Path(folder).is_dir():
                argv += ["--ro-bind", folder, folder]
        for folder in tests_pythons():
            if not folder.is_relative_to("/usr"):
                argv += ["--ro-bind", str(folder), str(folder)]
        return [*argv, "--proc", "/proc", "--dev", "/dev", "--chdir", "/"]


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
