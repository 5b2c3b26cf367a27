"""The orchestrator's end of init's control socket: requests, answers, and descriptors that travel with them."""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import anyio

from envoi_trace_core.builtin.local_sandbox.folders import SandboxFolder
from envoi_trace_core.errors import SandboxError, SandboxLostError

MAX_ANSWER_BYTES = 1 << 20
ANSWER_TIMEOUT_S = 30.0


class Connection:
    """One connection to init. Closing it kills the command that was started on it, unless it has ended."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()

    @property
    def sock(self) -> socket.socket:
        """For those who wait on it themselves."""
        return self._sock

    async def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a request; the descriptors go with its first bytes.

        Raises:
            SandboxLostError: Init is gone.
        """
        body = json.dumps(message).encode()
        data = memoryview(struct.pack(">I", len(body)) + body)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            while data:
                try:
                    sent = self._sock.sendmsg([data], ancillary)
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)
                    continue
                data = data[sent:]
                ancillary = []
        except OSError as error:
            raise SandboxLostError("The local sandbox has ended.") from error

    async def receive(self) -> dict[str, Any] | None:
        """The next answer; None when init is gone."""
        while (answer := self.received()) is None:
            try:
                await anyio.wait_readable(self._sock)
                data = self._sock.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                return None
            if not data:
                return None
            self._received += data
        return answer

    def received(self) -> dict[str, Any] | None:
        """An answer that has come already."""
        if len(self._received) < 4:
            return None
        (size,) = struct.unpack_from(">I", self._received)
        if size > MAX_ANSWER_BYTES:
            raise SandboxLostError("The local sandbox's first process answers nonsense.")
        if len(self._received) < 4 + size:
            return None
        answer: dict[str, Any] = json.loads(bytes(self._received[4 : 4 + size]))
        del self._received[: 4 + size]
        return answer

    def is_broken(self) -> bool:
        """Whether init is gone; does not wait."""
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._received += data
        return not data and not self._received

    def close(self) -> None:
        """Let go."""
        self._sock.close()


async def connect(folder: SandboxFolder) -> Connection:
    """Connect to init.

    Raises:
        SandboxLostError: It is gone.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with anyio.fail_after(ANSWER_TIMEOUT_S), folder.socket_address() as address:
            while True:
                try:
                    sock.connect(address)
                    break
                except BlockingIOError:  # as many others wait to be accepted as fit
                    await anyio.sleep(0.005)
    except (OSError, TimeoutError) as error:
        sock.close()
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise SandboxError("This process has too many open files.", retryable=True) from error
        raise SandboxLostError(f"The local sandbox {folder.id} has ended.") from error
    except BaseException:
        sock.close()
        raise
    return Connection(sock)


async def call(folder: SandboxFolder, message: dict[str, Any]) -> dict[str, Any]:
    """One request and its answer.

    Raises:
        SandboxLostError: Init is gone, or does not answer.
        SandboxError: It could not do that.
    """
    connection = await connect(folder)
    try:
        with anyio.move_on_after(ANSWER_TIMEOUT_S):
            await connection.send(message)
            return checked(await connection.receive())
        raise SandboxLostError(f"The local sandbox {folder.id} does not answer.")
    finally:
        connection.close()


def checked(answer: dict[str, Any] | None) -> dict[str, Any]:
    """An answer that is no failure.

    Raises:
        SandboxLostError: There was none.
        SandboxError: It says that the request failed.
    """
    if answer is None:
        raise SandboxLostError("The local sandbox has ended.")
    if "error" in answer:
        raise SandboxError(f"The command could not be started: {answer['error']}.")
    return answer


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
