"""The first process of a local sandbox: starts commands, enforces deadlines, and ends everything at once.

Run as a file (`python -I -S init.py CONFIG`) by any Python from 3.9 on, inside bubblewrap as process 1 of its
namespaces, or directly when there is no isolation. It listens on a unix socket that the orchestrator bound; each
connection carries one request: a length (4 bytes, big endian), a JSON object, and up to three file descriptors
(stdin, stdout, stderr). Answers have the same form. A client that goes away takes its command with it, unless
that was spawned; so nothing runs on for an orchestrator that was killed, and deadlines hold without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
KILL_ALL_S = 10.0
MAX_WAIT_S = 3600.0  # the system call overflows after 24 days


class Command:
    """A command that a client asked for, with the process group that it leads."""

    def __init__(self, pid: int, kind: str, connection: Connection | None, deadline: float | None) -> None:
        self.pid = pid
        self.kind = kind
        self.connection = connection
        self.deadline = deadline
        self.timed_out = False
        self.ended = False
        self.group_gone = False

    def kill_group(self) -> None:
        """Kill what is left of the group. A number that may belong to another group by now is left alone."""
        if not self.group_gone:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def look_for_group(self) -> None:
        """Note that the group is empty, as soon as it is: its number is free from then on."""
        if self.ended and not self.group_gone:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                self.group_gone = True
            except PermissionError:
                pass


class Connection:
    """A client: what it sent so far, and the command that it waits for."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.fds: list[int] = []
        self.command: Command | None = None

    def receive(self) -> bool:
        """Take what has come; False when the client is gone."""
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            data, fds, _flags, _address = socket.recv_fds(self.sock, 1 << 16, 3, flags)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for fd in fds:
            os.set_inheritable(fd, False)
        self.fds.extend(fds)
        self.received += data
        return bool(data) and len(self.received) <= MAX_MESSAGE_BYTES

    def message(self) -> dict[str, Any] | None:
        """The next whole message; None while there is none."""
        if len(self.received) < 4:
            return None
        (size,) = struct.unpack_from(">I", self.received)
        if len(self.received) < 4 + size:
            return None
        body = bytes(self.received[4 : 4 + size])
        del self.received[: 4 + size]
        found: dict[str, Any] = json.loads(body)
        return found

    def reply(self, **answer: Any) -> None:
        """Answer; answers are short, so they fit into the socket's buffer. A client that left needs none."""
        body = json.dumps(answer).encode()
        with contextlib.suppress(OSError):
            self.sock.sendall(struct.pack(">I", len(body)) + body)

    def close_fds(self) -> None:
        """Let go of the command's streams: only the command holds them from now on."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


class Init:
    """The loop: requests, ends of processes, deadlines."""

    def __init__(self, listener: socket.socket, *, isolated: bool, lifetime_s: float) -> None:
        self.listener = listener
        self.isolated = isolated
        self.ends_at = time.monotonic() + lifetime_s
        self.running: dict[int, Command] = {}
        self.spawned: dict[str, Command] = {}
        self.lingering: set[Command] = set()  # streams whose leader ended, whose client is still there
        self.selector = selectors.DefaultSelector()
        self.closing = False

    def serve(self) -> None:
        """Work until the lifetime is over or a client says close."""
        wakeup, wakeup_end = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(wakeup_end, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.selector.register(wakeup, selectors.EVENT_READ, wakeup)
        while not self.closing and time.monotonic() < self.ends_at:
            for key, _events in self.selector.select(self._next_deadline_s()):
                if isinstance(key.data, Connection):
                    self._read(key.data)
                elif key.data is None:
                    self._accept()
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wakeup, 4096)
            self._reap()
            self._enforce_deadlines()
        if not self.isolated:  # the end of process 1 ends its namespace; elsewhere it is work
            self._kill_everything()

    def on_terminate(self, *_args: object) -> None:
        """SIGTERM, for a sandbox that is no process 1."""
        self.closing = not self.isolated

    # -- clients ------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _address = self.listener.accept()
            sock.setblocking(True)
            sock.settimeout(5)  # only answers are written, into an empty buffer
            self.selector.register(sock, selectors.EVENT_READ, Connection(sock))

    def _read(self, connection: Connection) -> None:
        try:
            there = connection.receive()
            while there and (message := connection.message()) is not None:
                self._handle(connection, message)
        except (ValueError, TypeError, KeyError) as error:
            connection.reply(error=f"bad request: {error!r}")
            there = False
        if not there:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self.selector.unregister(connection.sock)
        connection.sock.close()
        connection.close_fds()
        command, connection.command = connection.command, None
        if command is not None:
            command.connection = None
            self.lingering.discard(command)
            if command.kind == "stream" or not command.ended:
                command.kill_group()

    def _handle(self, connection: Connection, message: dict[str, Any]) -> None:
        op = message["op"]
        if op in ("run", "stream", "spawn", "write", "read"):
            self._start(connection, op, message)
        elif op == "ping":
            connection.reply(ok=True)
        elif op == "kill":
            if connection.command is not None:
                connection.command.kill_group()
        elif op == "kill_spawned":
            self._kill_spawned(message["handle"])
            connection.reply(ok=True)
        elif op == "is_alive":
            self._reap()
            connection.reply(alive=self._is_alive(message["handle"]))
        elif op == "keep_alive":
            self.ends_at = time.monotonic() + float(message["lifetime_s"])
            connection.reply(ok=True)
        elif op == "close":
            self.closing = True
        else:
            raise ValueError(op)

    def _is_alive(self, handle: str) -> bool:
        command = self.spawned.get(handle)
        return command is not None and not command.group_gone

    def _kill_spawned(self, handle: str) -> None:
        command = self.spawned.get(handle)
        if command is not None:
            command.kill_group()

    # -- commands -----------------------------------------------------------------------------

    def _start(self, connection: Connection, kind: str, message: dict[str, Any]) -> None:
        try:
            pid = (
                start_file_work(connection.fds, message) if kind in ("write", "read") else execute(connection, message)
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            connection.close_fds()
            connection.reply(error=str(error))
            return
        connection.close_fds()
        timeout_s = message.get("timeout_s")
        deadline = None if timeout_s is None else time.monotonic() + float(timeout_s)
        command = Command(pid, kind, None if kind == "spawn" else connection, deadline)
        self.running[pid] = command
        if kind == "spawn":
            handle = str(len(self.spawned) + 1)
            self.spawned[handle] = command
            connection.reply(handle=handle)
        else:
            connection.command = command
            connection.reply(started=True)

    def _reap(self) -> None:
        """Take every ended child, orphans of commands among them."""
        reaped = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            reaped = True
            command = self.running.pop(pid, None)
            if command is not None:
                self._end(command, os.waitstatus_to_exitcode(status))
        if reaped:
            for command in (*self.spawned.values(), *self.lingering):
                command.look_for_group()

    def _end(self, command: Command, code: int) -> None:
        command.ended = True
        command.look_for_group()
        if command.connection is not None:
            self.lingering.add(command)
            command.connection.reply(exit_code=code if code >= 0 else 128 - code, timed_out=command.timed_out)

    # -- time ---------------------------------------------------------------------------------

    def _next_deadline_s(self) -> float:
        deadlines = [command.deadline for command in self.running.values() if command.deadline is not None]
        return max(0.0, min(MAX_WAIT_S, min([self.ends_at, *deadlines]) - time.monotonic()))

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for command in self.running.values():
            if command.deadline is not None and command.deadline <= now:
                command.deadline = None
                command.timed_out = True
                command.kill_group()

    def _kill_everything(self) -> None:
        """Kill every descendant; those that fork meanwhile are found in the next round."""
        for command in (*self.running.values(), *self.spawned.values(), *self.lingering):
            command.kill_group()
        until = time.monotonic() + KILL_ALL_S
        while time.monotonic() < until:
            living = descendants(os.getpid())
            for pid in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                if not living:
                    return
            time.sleep(0.002)


def execute(connection: Connection, message: dict[str, Any]) -> int:
    """Start the command as the leader of a session of its own; gives its pid."""
    streams = connection.fds or [subprocess.DEVNULL] * 3
    process = subprocess.Popen(  # no shell: argv is the client's list
        message["argv"],
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        cwd=message["cwd"],
        env={**os.environ, **message["env"]},
        start_new_session=True,
        close_fds=False,  # all of ours are close-on-exec, and /proc/self/fd can't be listed when not dumpable
    )
    process.returncode = 0  # the loop reaps it; without this Popen would try to, and complain
    return process.pid


def start_file_work(fds: list[int], message: dict[str, Any]) -> int:
    """Read or write a file in a process of its own, so that a pipe or a slow disk can't hold up the loop."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        os.chdir(message["cwd"])
        if message["op"] == "write":
            write_file(message["path"], message["size_bytes"], message["mode"])
        else:
            read_file(message["path"], message["max_bytes"])
        code = 0
    except BaseException as error:  # noqa: BLE001 - a fork must never return into the loop
        with contextlib.suppress(OSError):
            os.write(2, str(error).encode(errors="replace"))
    os._exit(code)


def write_file(path: str, size_bytes: int, mode: int) -> None:
    """Make a file of stdin, or leave what was there when stdin ends too early."""
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise IsADirectoryError("it names a folder")
    folder = folder or "."
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - paths may be no UTF-8
    draft = os.path.join(folder, f".envoi-trace-{os.getpid()}")  # noqa: PTH118 - a Path would be no shorter here
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        left = size_bytes
        while chunk := os.read(0, 1 << 20):
            left -= len(chunk)
            while chunk:
                chunk = chunk[os.write(fd, chunk) :]
        if left:
            raise OSError("the data was cut")  # noqa: TRY301
        os.fchmod(fd, mode)
        os.replace(draft, path)  # noqa: PTH105
    except BaseException:
        os.unlink(draft)  # noqa: PTH108
        raise
    finally:
        os.close(fd)


def read_file(path: str, max_bytes: int) -> None:
    """Copy a regular file to stdout."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not block
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    if found.st_size > max_bytes:
        raise OSError(f"it has {found.st_size} bytes, more than {max_bytes}")
    left = max_bytes + 1  # the client sees by the one byte more that it grew meanwhile
    while left and (chunk := os.read(fd, min(left, 1 << 20))):
        left -= len(chunk)
        while chunk:
            chunk = chunk[os.write(1, chunk) :]


def descendants(pid: int) -> list[int]:
    """Every living process below `pid`, by /proc; empty where there is none (macOS)."""
    children: dict[int, list[int]] = {}
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return []
    for name in names:
        try:
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            children.setdefault(int(fields[1]), []).append(int(name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found.extend(below)
        left.extend(below)
    return found


def set_process_flags() -> None:
    """On Linux: adopt orphans, and keep other processes of this user out of our memory and descriptors."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    """Serve on the socket that the configuration names."""
    config = json.loads(sys.argv[1])
    os.set_inheritable(config["listen_fd"], False)
    listener = socket.socket(fileno=config["listen_fd"])
    os.umask(0o022)
    set_process_flags()
    init = Init(listener, isolated=config["isolated"], lifetime_s=config["lifetime_s"])
    # Handlers rather than SIG_IGN, which commands would inherit.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT):
        signal.signal(number, lambda *_args: None)
    signal.signal(signal.SIGTERM, init.on_terminate)
    init.serve()


if __name__ == "__main__":
    main()
