"""One HTTP request of the fake: read, answered, or broken off."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client went away")
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    async def body(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def reply(self, status: int, answer: Any = None, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        data = b"" if answer is None else json.dumps(answer).encode()
        more = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers]
        await self.begin(status, more)
        await self.send({"type": "http.response.body", "body": data})

    async def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def more(self, data: bytes) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        await self.send({"type": "http.response.body", "body": b""})

    async def drop(self) -> None:
        """Break off: the answer ends before its promised length, so the server closes the connection."""
        await self.begin(200, [(b"content-length", b"100")])
        await self.more(b"{")
