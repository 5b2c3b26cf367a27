"""The relay's protocol: two ends in memory, with a slow or a hostile peer."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from envoi_trace_core.harness.relay_mux import (
    CLOSE,
    DATA,
    HEADER,
    MAX_PAYLOAD,
    OPEN,
    PING,
    WINDOW,
    WINDOW_BYTES,
    Mux,
    MuxStream,
    ProtocolError,
    StreamClosedError,
)

pytestmark = pytest.mark.anyio


class Pair:
    def __init__(self) -> None:
        self.accepted: list[tuple[MuxStream, dict[str, Any]]] = []
        self.controls: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.left = Mux(send=self._to_right, first_number=1, on_open=self._accept, on_control=self.controls.append)
        self.right = Mux(send=self._to_left, first_number=2, on_open=self._accept, on_control=self.controls.append)

    def _accept(self, stream: MuxStream, target: dict[str, Any]) -> None:
        self.accepted.append((stream, target))

    async def _to_right(self, data: bytes) -> None:
        self.sizes.append(len(data))
        for start in range(0, len(data), 7000):  # frames come in pieces
            self.right.feed(data[start : start + 7000])
        await anyio.lowlevel.checkpoint()

    async def _to_left(self, data: bytes) -> None:
        self.left.feed(data)
        await anyio.lowlevel.checkpoint()

    async def open(self, target: dict[str, Any]) -> tuple[MuxStream, MuxStream]:
        stream = self.left.open(target)
        await settle()
        return stream, self.accepted[-1][0]


async def settle() -> None:
    await anyio.wait_all_tasks_blocked()


@asynccontextmanager
async def connected() -> AsyncIterator[Pair]:
    pair = Pair()
    async with anyio.create_task_group() as group:
        group.start_soon(pair.left.write_frames)
        group.start_soon(pair.right.write_frames)
        yield pair
        group.cancel_scope.cancel()


async def read_all(stream: MuxStream) -> bytes:
    data = b""
    while chunk := await stream.read():
        data += chunk
    return data


async def test_both_directions_and_half_close() -> None:
    async with connected() as pair:
        near, far = await pair.open({"tcp": 1})
        assert pair.accepted[0][1] == {"tcp": 1}
        await near.write(b"question")
        await near.write_eof()
        assert await read_all(far) == b"question"
        await far.write(b"answer")
        await far.write_eof()
        assert await read_all(near) == b"answer"


async def test_much_data_arrives_whole() -> None:
    data = bytes(range(256)) * 12_000
    async with connected() as pair:
        near, far = await pair.open({})

        async def write() -> None:
            await near.write(data)
            await near.write_eof()

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            assert await read_all(far) == data


async def test_slow_reader_blocks_its_own_stream_only_and_memory_is_bounded() -> None:
    async with connected() as pair:
        slow, slow_far = await pair.open({})
        async with anyio.create_task_group() as group:
            group.start_soon(slow.write, b"x" * (10 * WINDOW_BYTES))
            await settle()
            sent = sum(pair.sizes)
            assert WINDOW_BYTES <= sent < WINDOW_BYTES + 10_000
            quick, quick_far = await pair.open({})
            await quick.write(b"passes by")
            assert await quick_far.read() == b"passes by"
            await slow_far.read(WINDOW_BYTES)
            await settle()
            assert sum(pair.sizes) > sent
            group.cancel_scope.cancel()


async def test_close_delivers_what_was_written_before() -> None:
    async with connected() as pair:
        near, far = await pair.open({})
        await near.write(b"last words")
        near.close("done with it")
        await settle()
        assert await far.read() == b"last words"
        with pytest.raises(StreamClosedError, match="done with it"):
            await far.read()
        with pytest.raises(StreamClosedError):
            await far.write(b"too late")


async def test_broken_bytes_below_wake_readers_and_writers() -> None:
    async with connected() as pair:
        near, _ = await pair.open({})
        failures: list[Exception] = []

        async def expect(work: Any) -> None:
            try:
                await work
            except StreamClosedError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(expect, near.read())
            group.start_soon(expect, near.write(b"x" * (2 * WINDOW_BYTES)))
            await settle()
            pair.left.close("the line is cut")
        assert [str(error) for error in failures] == ["the line is cut"] * 2
        with pytest.raises(StreamClosedError):
            pair.left.open({})


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, number, len(payload)) + payload


@pytest.mark.parametrize(
    "frames",
    [
        HEADER.pack(DATA, 1, MAX_PAYLOAD + 1),
        frame(99, 1),
        frame(OPEN, 1, b"{}"),
        frame(OPEN, 2, b"not json"),
        frame(OPEN, 2, b"[" * 30_000),
        frame(OPEN, 2, b"{}") + frame(DATA, 2, b"x" * MAX_PAYLOAD) * (WINDOW_BYTES // MAX_PAYLOAD + 1),
        frame(OPEN, 2, b"{}") + frame(WINDOW, 2, struct.pack(">I", 1)),
        frame(OPEN, 2, b"{}") + frame(WINDOW, 2, b"1"),
    ],
)
async def test_what_breaks_the_rules_is_refused(frames: bytes) -> None:
    with pytest.raises(ProtocolError):
        Pair().left.feed(frames)


async def test_peer_that_asks_and_never_reads_is_cut_off() -> None:
    mux = Pair().left
    mux.feed(frame(PING, 0) * 20_000)
    assert mux.closed_reason == "the other end reads nothing"


async def test_too_many_streams_are_refused_one_by_one() -> None:
    pair = Pair()
    pair.left.feed(b"".join(frame(OPEN, 2 * number, b"{}") for number in range(1, 1000)))
    assert len(pair.accepted) == 512
    pair.left.feed(frame(CLOSE, 2))
    pair.left.feed(frame(OPEN, 4000, b"{}"))
    assert len(pair.accepted) == 513
