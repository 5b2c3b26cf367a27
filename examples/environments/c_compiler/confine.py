"""Runs one command of a submission so that nothing it does outlives it or reaches further than its folder.

    python -I confine.py <<< one JSON object (see `main`); one JSON object as the answer

A program of its own, because what holds here holds for a whole process: it becomes the parent of every orphan below
it, and enters namespaces. No cgroup is needed. What is used, as far as the machine allows it:

- resource limits: processor time, address space, size of files, core dumps, processes;
- as root, a user of its own for each command that runs (a lock file each), so that the limit of processes is its own,
  and all its processes can be killed in one system call;
- namespaces: of processes (their end is one kill), of mounts (compilers are covered), without a network;
- a watch over the number of processes, the memory and the disk space of everything below, and the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FIRST_UID = 47_000
UID_COUNT = 256
WATCH_EVERY_S = 0.02
WATCH_DISK_EVERY_S = 0.5
MAX_FILES = 4000
KILL_WITHIN_S = 10.0
LOCKS = Path("/tmp/c-compiler-users")

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Best effort: an old kernel or another one lacks some."""
    libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def mount(source: str, target: str, flags: int) -> None:
    """mount(2).

    Raises:
        OSError: It can't.
    """
    if libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


# -- who runs it, and what it sees ------------------------------------------------------------------


def take_user() -> int | None:
    """As root: a user id that nobody else runs under, until this process ends. None: everything runs as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        LOCKS.mkdir(mode=0o700, exist_ok=True)
        if LOCKS.is_symlink() or LOCKS.stat().st_uid != 0:
            return None
        for number in range(UID_COUNT):
            uid = FIRST_UID + (os.getpid() + number) % UID_COUNT
            lock = os.open(LOCKS / str(uid), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            return uid if can_become(uid) else None
    except OSError:
        pass
    return None


def can_become(uid: int) -> bool:
    """Whether this root may change to it (one of a small user namespace may not)."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def enter_namespaces(covers: dict[str, str]) -> bool:
    """Namespaces of processes, mounts and network for what is forked next. False: this machine gives none.

    Args:
        covers: Files to hide, and what is seen in the place of each.
    """
    wanted = os.CLONE_NEWPID | os.CLONE_NEWNS | os.CLONE_NEWIPC | os.CLONE_NEWNET
    uid, gid = os.getuid(), os.getgid()
    try:
        if uid == 0:
            os.unshare(wanted)
        else:
            os.unshare(wanted | os.CLONE_NEWUSER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        mount("none", "/", MS_REC | MS_PRIVATE)
    except OSError:
        return False
    for target, source in covers.items():
        with contextlib.suppress(OSError):
            mount(source, target, MS_BIND)
    return True


# -- the command ------------------------------------------------------------------------------------


def set_limits(spec: dict, uid: int | None, *, counts_own: bool) -> None:
    """The limits that the kernel keeps."""
    processes = spec["processes"]
    if uid is None and not counts_own:
        processes += len(list(own_threads()))  # the limit is on all processes of the user
    limits = {
        resource.RLIMIT_CPU: int(spec["cpu_s"]),
        resource.RLIMIT_AS: spec["memory_bytes"],
        resource.RLIMIT_FSIZE: spec["file_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_NOFILE: 256,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # One second more, so that the end for using too much time is SIGXCPU first.
        resource.setrlimit(name, (value, value + (name == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY)))


def own_threads() -> Iterator[str]:
    """Every thread of this user."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.getuid():
                    yield from (task.name for task in (entry / "task").iterdir())


def start(spec: dict, uid: int | None, *, namespaced: bool, report: int) -> int:
    """Fork what becomes the command; it writes how it ended to `report`.

    Between us and the command stands a process that stays root: the first of the namespace, with which all others die.
    """
    first = os.fork()
    if first:
        return first
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        command = os.fork()
        if command == 0:
            become(spec, uid, counts_own=namespaced and uid is None, report=report)
        while True:
            pid, status = os.wait()
            if pid == command:
                os.write(report, f"status {status}\n".encode())
                os._exit(0)
    except BaseException as error:  # noqa: BLE001 - there is nobody to raise it to
        os.write(report, f"error {error}\n".encode())
        os._exit(1)


def become(spec: dict, uid: int | None, *, counts_own: bool, report: int) -> None:
    """Turn this process into the command."""
    try:
        os.setsid()
        for number, (path, flags) in enumerate(
            (
                (spec["stdin"], os.O_RDONLY),
                (spec["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND),
                (spec["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND),
            )
        ):
            os.dup2(os.open(path, flags, 0o600), number)
        os.chdir(spec["cwd"])
        os.umask(0o022)
        os.nice(5)  # whoever watches comes first
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
        set_limits(spec, uid, counts_own=counts_own)
        if uid is not None:
            os.setuid(uid)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execve(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        os.write(report, f"exec {error.errno}\n".encode())
    except BaseException as error:  # noqa: BLE001
        os.write(report, f"error {error}\n".encode())
    os._exit(127)


# -- the watch --------------------------------------------------------------------------------------


def descendants(root: int) -> list[int]:
    """Every process below one, whatever session or group it went to. A process that ends meanwhile is left out."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            tasks = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - many a second
        except OSError:
            continue
        for task in tasks:
            try:
                with open(f"/proc/{pid}/task/{task}/children") as file:  # noqa: PTH123 - many a second
                    children = [int(word) for word in file.read().split()]
            except OSError as error:
                if error.errno == errno.ENOENT and pid == root and not Path("/proc/self/task").is_dir():
                    return []
                continue
            found += children
            waiting += children
    return found


def memory_of(pids: list[int]) -> int:
    """Resident bytes of some processes together."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm") as file:  # noqa: PTH123
            words = file.read().split()
            pages += int(words[1]) - int(words[2])
    return pages * resource.getpagesize()


def disk_of(folder: str, most: int) -> int:
    """Bytes on disk below a folder; stops once it is more than `most`, or there are too many files."""
    size = files = 0
    for place, _, names in os.walk(folder):
        for name in names:
            files += 1
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118
            if size > most or files > MAX_FILES:
                return most + 1
    return size


def watch(spec: dict, report: int, deadline: float) -> str:
    """Wait for the command's end; gives what it reported, or why it must be ended."""
    poll = select.poll()
    poll.register(report, select.POLLIN | select.POLLHUP)
    disk_at = time.monotonic() + WATCH_DISK_EVERY_S
    said = b""
    while True:
        now = time.monotonic()
        if now >= deadline:
            return "timeout"
        if poll.poll(max(1, int(min(WATCH_EVERY_S, deadline - now) * 1000))):
            data = os.read(report, 4096)
            said += data
            if not data or b"\n" in said:
                return said.decode(errors="replace").split("\n")[0] or "error the command was lost"
            continue
        below = descendants(os.getpid())
        if len(below) > spec["processes"] + 1:
            return "processes"
        if memory_of(below) > spec["memory_bytes"]:
            return "memory"
        for name in ("stdout", "stderr"):
            with contextlib.suppress(OSError):
                if Path(spec[name]).stat().st_size > spec["output_bytes"]:
                    return "output"
        if now >= disk_at:
            disk_at = now + WATCH_DISK_EVERY_S
            if disk_of(spec["cwd"], spec["disk_bytes"]) > spec["disk_bytes"]:
                return "disk"


def end(first: int, uid: int | None) -> None:
    """Kill everything that the command started, and wait until it is gone."""
    deadline = time.monotonic() + KILL_WITHIN_S
    with contextlib.suppress(OSError):
        os.kill(first, signal.SIGKILL)  # in a namespace of processes this ends all of them
    while time.monotonic() < deadline:
        if uid is not None:
            kill_user(uid)
        left = descendants(os.getpid())
        # Stopped first: what is stopped can't fork while the others are killed.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def kill_user(uid: int) -> None:
    """Every process of a user, in one system call, so that none can fork away."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.setresuid(uid, uid, 0)  # the saved id stays root's: they can't kill us
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    os.waitpid(child, 0)


def clean(uid: int | None) -> None:
    """What it left in the places where everybody may write."""
    if uid is None:
        return
    import shutil

    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            for entry in os.scandir(place):
                if entry.stat(follow_symlinks=False).st_uid == uid:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)  # noqa: PTH108


def main() -> None:
    """Read `{argv, env, cwd, stdin, stdout, stderr, wall_s, cpu_s, memory_bytes, file_bytes, output_bytes,

    disk_bytes, processes, own_user, covers}`, run it, and say `{ended, status, duration_ms, namespaced, user}`.
    `ended` is `exited`, `exec` (it could not be started), `timeout`, `processes`, `memory`, `output`, `disk` or
    `error`; `status` is what wait(2) gave, or the number or text of the error.
    """
    spec = json.load(sys.stdin)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    uid = take_user() if spec["own_user"] else None
    if uid is not None:
        for place, folders, names in os.walk(spec["cwd"]):
            for name in (".", *folders, *names):
                os.lchown(os.path.join(place, name), uid, uid)  # noqa: PTH118
    namespaced = enter_namespaces(spec["covers"])
    reading, writing = os.pipe()
    started = time.monotonic()
    first = start(spec, uid, namespaced=namespaced, report=writing)
    os.close(writing)
    said = watch(spec, reading, started + spec["wall_s"])
    duration_ms = int((time.monotonic() - started) * 1000)
    # The end of a namespace is the end of all that is in it; nothing can be forked into it any more.
    end(first, None if namespaced else uid)
    clean(uid)
    word, _, rest = said.partition(" ")
    answer = {"ended": "exited" if word == "status" else word, "status": rest, "duration_ms": duration_ms}
    json.dump({**answer, "namespaced": namespaced, "user": uid}, sys.stdout)


if __name__ == "__main__":
    main()
