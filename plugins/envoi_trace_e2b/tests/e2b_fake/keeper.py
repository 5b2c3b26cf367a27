"""The first process of one fake sandbox: starts, signals and reaps its processes, and opens its files.

Runs inside bubblewrap as PID 1 with nothing but the standard library, so that what the fake asks for happens where
the sandbox's own paths and process numbers count. It speaks over a socket that it inherits: one JSON object a packet,
file descriptors beside it. When it dies the kernel ends every process of the sandbox, as with a virtual machine.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

MAX_PACKET_BYTES = 1 << 20


def spawn(request, fds):
    """Start a process; envd gives it neither a session nor a process group of its own."""
    if not Path(request["cwd"]).is_dir():
        raise FileNotFoundError(2, f"cwd '{request['cwd']}' does not exist")
    process = subprocess.Popen(
        request["argv"], cwd=request["cwd"], env=request["env"], stdin=fds[0], stdout=fds[1], stderr=fds[2]
    )
    process.returncode = 0  # reaped below, not by subprocess
    return {"pid": process.pid}


def send_signal(request, _fds):
    os.kill(request["pid"], request["signal"])
    return {}


def open_read(request, _fds):
    path = Path(request["path"])
    if path.is_dir():
        raise IsADirectoryError(21, "is a directory")
    return {"fd": os.open(path, os.O_RDONLY), "size": path.stat().st_size}


def open_write(request, _fds):
    path = Path(request["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    return {"fd": os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)}


def unpack(request, fds):
    """Put what COPY of a Dockerfile names where it belongs."""
    import tarfile

    target = Path(request["target"])
    with tarfile.open(fileobj=os.fdopen(os.dup(fds[0]), "rb"), mode="r:*") as archive:
        members = archive.getmembers()
        source = request["source"].strip("/.")
        for member in members:
            name = member.name
            if source and (name == source or name.startswith(source + "/")):
                name = name[len(source) :].strip("/") if request["is_folder"] else Path(name).name
            to_folder = request["is_folder"] or request["target"].endswith("/")
            path = target / name if name and to_folder else target
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif (data := archive.extractfile(member)) is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as out:
                    shutil.copyfileobj(data, out)
                path.chmod(member.mode)
    return {}


OPERATIONS = {
    "spawn": spawn,
    "signal": send_signal,
    "open_read": open_read,
    "open_write": open_write,
    "unpack": unpack,
}


def answer(channel, packet, fds):
    request = json.loads(packet)
    try:
        reply = OPERATIONS[request["op"]](request, fds)
    except OSError as error:
        reply = {"errno": error.errno, "error": error.strerror or str(error)}
    finally:
        for fd in fds:
            os.close(fd)
    opened = [reply.pop("fd")] if "fd" in reply else []
    socket.send_fds(channel, [json.dumps({"id": request["id"], **reply}).encode()], opened)
    for fd in opened:
        os.close(fd)


def reap(channel):
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        channel.send(json.dumps({"exited": pid, "code": os.waitstatus_to_exitcode(status)}).encode())


def main():
    import selectors

    channel = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(channel.fileno(), False)
    read_wake, write_wake = os.pipe()
    os.set_blocking(write_wake, False)
    signal.set_wakeup_fd(write_wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(channel, selectors.EVENT_READ)
    selector.register(read_wake, selectors.EVENT_READ)
    channel.send(json.dumps({"ready": True}).encode())
    while True:
        for key, _events in selector.select():
            if key.fd == read_wake:
                os.read(read_wake, 4096)
                reap(channel)
                continue
            packet, fds, _flags, _address = socket.recv_fds(channel, MAX_PACKET_BYTES, 4)
            if not packet:
                return
            answer(channel, packet, fds)


if __name__ == "__main__":
    main()
