"""The relay's protocol: many byte streams over one. Both ends use it, `relay.py` and `relay_agent.py`.

It runs in the sandbox too, so it uses the standard library only, and Python 3.9 or newer.

Frame: type (1 byte), stream (4), length of the payload (4, big endian), payload.

    OPEN     JSON: where to connect ({"tcp": port}, {"unix": path}) or which service was reached ({"service": name})
    DATA     at most MAX_PAYLOAD bytes, and never more than the receiver has granted
    EOF      no more data from this side; the other direction stays open
    CLOSE    the stream is gone in both directions; the payload says why
    WINDOW   4 bytes: the receiver took that many bytes and grants as many more
    PING, PONG
    CONTROL  JSON, stream 0: {"listen": service, "unix": path} or {"listen": service, "tcp": port}; the answer
             repeats it with {"ok": true} or {"error": text}

The orchestrator's streams have odd numbers, the sandbox's even ones.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

MAGIC = b"\x00envoi-trace-relay-1\n"
OPEN, DATA, EOF, CLOSE, WINDOW, PING, PONG, CONTROL = range(1, 9)
HEADER = struct.Struct(">BII")
MAX_PAYLOAD = 32 * 1024
WINDOW_BYTES = 256 * 1024
MAX_STREAMS = 512
MAX_QUEUED_CONTROL = 8192


class ProtocolError(Exception):
    """The other end broke the rules above."""


class StreamClosedError(Exception):
    """The other end closed the stream, or the relay broke."""


class MuxStream:
    """One byte stream. Each direction can be ended by itself."""

    def __init__(self, mux: Mux, number: int) -> None:
        self._mux = mux
        self._number = number
        self._buffer = bytearray()
        self._ungranted = 0
        self._credit = WINDOW_BYTES
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self.received_eof = False
        self.sent_eof = False
        self.closed_reason: str | None = None

    async def read(self, max_bytes: int = 65536) -> bytes:
        """The next data, at least one byte; empty at the end. Raises StreamClosedError."""
        while not self._buffer:
            if self.received_eof:
                return b""
            if self.closed_reason is not None:
                raise StreamClosedError(self.closed_reason)
            await self._wait_change()
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        self._ungranted += len(data)
        if self.closed_reason is None and self._ungranted >= WINDOW_BYTES // 4:
            self._mux.send_soon(WINDOW, self._number, struct.pack(">I", self._ungranted))
            self._ungranted = 0
        return data

    async def write(self, data: bytes) -> None:
        """Send data; waits while the receiver is slow. Raises StreamClosedError."""
        async with self._writing:
            view = memoryview(data)
            while view:
                while self._credit == 0 and self.closed_reason is None:
                    await self._wait_change()
                self._check_writable()
                size = min(len(view), self._credit, MAX_PAYLOAD)
                self._credit -= size
                await self._mux.send_data(self._number, bytes(view[:size]))
                view = view[size:]

    async def write_eof(self) -> None:
        """Say that no more data will come from this side. Fine when it was said."""
        async with self._writing:
            if not self.sent_eof and self.closed_reason is None:
                self.sent_eof = True
                self._mux.send_soon(EOF, self._number)
                self._forget_if_over()

    def close(self, reason: str = "closed") -> None:
        """End both directions at once. What was written before still arrives."""
        if self.closed_reason is None:
            if not (self.sent_eof and self.received_eof):
                self._mux.send_soon(CLOSE, self._number, reason.encode()[:1000])
            self.broken(reason)

    # -- what the other end did -------------------------------------------------------------------

    def take(self, payload: bytes) -> None:
        """Data arrived."""
        if self.received_eof or len(self._buffer) + self._ungranted + len(payload) > WINDOW_BYTES:
            raise ProtocolError("more data than was granted")
        self._buffer += payload
        self._changed.set()

    def take_eof(self) -> None:
        """The other end will send no more."""
        self.received_eof = True
        self._changed.set()
        self._forget_if_over()

    def grant(self, size_bytes: int) -> None:
        """The other end takes that many bytes more."""
        self._credit += size_bytes
        if self._credit > WINDOW_BYTES:
            raise ProtocolError("more credit than a window")
        self._changed.set()

    def broken(self, reason: str) -> None:
        """The stream is gone; what had arrived can still be read."""
        self.closed_reason = self.closed_reason or reason or "closed"
        self._mux.forget(self._number)
        self._changed.set()

    def _forget_if_over(self) -> None:
        if self.sent_eof and self.received_eof:
            self._mux.forget(self._number)

    def _check_writable(self) -> None:
        if self.closed_reason is not None:
            raise StreamClosedError(self.closed_reason)
        if self.sent_eof:
            raise StreamClosedError("this side was ended")

    async def _wait_change(self) -> None:
        # A reader and a writer may wait at once: each looks again at whatever changed.
        self._changed.clear()
        await self._changed.wait()


class Mux:
    """One end of the protocol, without any input or output of its own: bytes go in by `feed`, out by `send`."""

    def __init__(
        self,
        *,
        send: Callable[[bytes], Awaitable[None]],
        first_number: int,
        on_open: Callable[[MuxStream, dict[str, Any]], None],
        on_control: Callable[[dict[str, Any]], None],
    ) -> None:
        self._send = send
        self._next_number = first_number
        self._parity = first_number % 2
        self._on_open = on_open
        self._on_control = on_control
        self._streams: dict[int, MuxStream] = {}
        self._incoming = bytearray()
        self._control: deque[bytes] = deque()
        self._data: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._something_to_send = asyncio.Event()
        self.heard_at = time.monotonic()
        self.closed_reason: str | None = None

    def open(self, target: dict[str, Any]) -> MuxStream:
        """A new stream to `target`; a target that can't be reached closes it."""
        if self.closed_reason is not None:
            raise StreamClosedError(self.closed_reason)
        if len(self._streams) >= MAX_STREAMS:
            raise StreamClosedError("too many streams")
        number = self._next_number
        self._next_number += 2
        stream = self._streams[number] = MuxStream(self, number)
        self.send_soon(OPEN, number, json.dumps(target).encode())
        return stream

    def control(self, message: dict[str, Any]) -> None:
        """Send a control message."""
        self.send_soon(CONTROL, 0, json.dumps(message).encode())

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.send_soon(PING, 0)

    def forget(self, number: int) -> None:
        """A stream is over."""
        self._streams.pop(number, None)

    def close(self, reason: str) -> None:
        """Everything is over: the bytes below broke."""
        if self.closed_reason is None:
            self.closed_reason = reason
            for stream in list(self._streams.values()):
                stream.broken(reason)
            for _, sent in self._data:
                if not sent.done():
                    sent.set_exception(StreamClosedError(reason))
            self._data.clear()
            self._control.clear()
            self._something_to_send.set()

    # -- out --------------------------------------------------------------------------------------

    def send_soon(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Queue a small frame; data that is queued waits for it, except what was written to the same stream."""
        if self.closed_reason is not None:
            return
        if len(self._control) > MAX_QUEUED_CONTROL:
            self.close("the other end reads nothing")
            return
        self._control.append(HEADER.pack(kind, number, len(payload)) + payload)
        self._something_to_send.set()

    async def send_data(self, number: int, payload: bytes) -> None:
        """Send one data frame, after those that wait already: one each, so that streams share fairly."""
        if self.closed_reason is not None:
            raise StreamClosedError(self.closed_reason)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data.append((HEADER.pack(DATA, number, len(payload)) + payload, sent))
        self._something_to_send.set()
        await sent

    async def write_frames(self) -> None:
        """Send what is queued until the mux is closed; run this as a task."""
        while self.closed_reason is None:
            if self._control:
                frames = b"".join(self._control)
                self._control.clear()
                await self._send(frames)
            elif self._data:
                frame, sent = self._data[0]
                await self._send(frame)
                if self._data:  # else it was closed meanwhile
                    self._data.popleft()
                if not sent.done():
                    sent.set_result(None)
            else:
                self._something_to_send.clear()
                await self._something_to_send.wait()

    # -- in ---------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes from the other end. Never waits. Raises ProtocolError."""
        self.heard_at = time.monotonic()
        self._incoming += data
        start = 0
        while len(self._incoming) - start >= HEADER.size:
            kind, number, length = HEADER.unpack_from(self._incoming, start)
            if length > MAX_PAYLOAD:
                raise ProtocolError(f"a frame of {length} bytes")
            end = start + HEADER.size + length
            if len(self._incoming) < end:
                break
            payload = bytes(self._incoming[start + HEADER.size : end])
            start = end
            self._dispatch(kind, number, payload)
        del self._incoming[:start]

    def _dispatch(self, kind: int, number: int, payload: bytes) -> None:
        if kind == OPEN:
            self._opened(number, payload)
        elif kind == PING:
            self.send_soon(PONG, 0)
        elif kind == CONTROL:
            self._on_control(_json_object(payload))
        elif kind in (DATA, EOF, CLOSE, WINDOW):
            stream = self._streams.get(number)
            if stream is not None:  # else it was closed here while this was on its way
                _apply(stream, kind, payload)
        elif kind != PONG:
            raise ProtocolError(f"frame type {kind}")

    def _opened(self, number: int, payload: bytes) -> None:
        if number % 2 == self._parity or number in self._streams:
            raise ProtocolError(f"stream {number} can't be opened from there")
        target = _json_object(payload)
        if len(self._streams) >= MAX_STREAMS:
            self.send_soon(CLOSE, number, b"too many streams")
            return
        stream = self._streams[number] = MuxStream(self, number)
        self._on_open(stream, target)


def _apply(stream: MuxStream, kind: int, payload: bytes) -> None:
    if kind == DATA:
        stream.take(payload)
    elif kind == EOF:
        stream.take_eof()
    elif kind == CLOSE:
        stream.broken(payload.decode("utf-8", "replace"))
    elif len(payload) == 4:
        stream.grant(struct.unpack(">I", payload)[0])
    else:
        raise ProtocolError("a window without a size")


def _json_object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError("not a JSON object")
    return value
