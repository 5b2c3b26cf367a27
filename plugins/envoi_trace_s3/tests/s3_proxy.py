"""A proxy before the S3 server that does to requests what networks and busy servers do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import attrs

XML = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} it is</Message><Region>eu-west-3</Region></Error>"


@attrs.frozen
class Fault:
    """What happens to one request. `kind`: delay, reset (not forwarded), lost (forwarded, answer cut), cut, answer."""

    kind: str
    status: int = 500
    code: str = "InternalError"
    delay_s: float = 0.0
    answer_bytes: int = 0


@attrs.frozen
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@attrs.define
class Proxy:
    """`decide` gives a fault for a request, or None to let it pass."""

    upstream_port: int
    port: int = 0
    requests: list[Request] = attrs.field(factory=list)
    decide: Callable[[Request], Fault | None] = lambda _request: None
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def once(self, *faults: Fault, method: str = "", part: str = "") -> None:
        """Do these to the first requests of that method whose target holds `part`."""
        left = list(faults)

        def decide(request: Request) -> Fault | None:
            matches = request.method.startswith(method) and part in request.target
            return left.pop(0) if left and matches else None

        self.decide = decide

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._exchange(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _ = first.split(" ")
        request = Request(method, target, headers, body)
        self.requests.append(request)
        fault = self.decide(request)
        if fault is not None and fault.kind == "answer":
            text = b"" if method == "HEAD" else XML.format(code=fault.code).encode()
            writer.write(
                b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (fault.status, len(text))
            )
            writer.write(text)
            await writer.drain()
            return
        if fault is not None and fault.kind == "reset":
            writer.transport.abort()
            return
        if fault is not None:
            await asyncio.sleep(fault.delay_s)
        answer = await self._forward(head, body)
        if fault is not None and fault.kind == "lost":
            writer.transport.abort()
            return
        writer.write(answer[: fault.answer_bytes] if fault is not None and fault.kind == "cut" else answer)
        await writer.drain()

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        head = re.sub(rb"(?im)^(expect|connection):[^\n]*\n", b"", head)
        writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        answer = await reader.read(-1)
        writer.close()
        end = answer.find(b"\r\n")
        return answer[: end + 2] + re.sub(rb"(?i)^connection:[^\n]*\n", b"", answer[end + 2 :])
