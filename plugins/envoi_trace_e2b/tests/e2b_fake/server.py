"""The fake as a whole: one account of E2B on the loopback interface, for the real SDK.

    with FakeE2b(tmp_path) as fake:
        os.environ |= fake.environ
        ...

Two servers, one for the API and one for envd, on an event loop in a thread of their own; either can go and come back.
What is not like the real cloud: users and CPU or memory limits mean nothing, a pause stops processes and keeps their
memory where it is, and builds install nothing (see `builds.py`).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import uvicorn
from e2b_fake import envd, rest
from e2b_fake.asgi import Exchange
from e2b_fake.builds import Build
from e2b_fake.state import Fault, Limits, State

Side = Literal["api", "envd"]


class FakeE2b:
    """Enter it to start, leave it to end everything."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        self.state = State(root, limits or Limits())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._ports: dict[Side, int] = {}
        self._servers: dict[Side, tuple[uvicorn.Server, asyncio.Task[None]]] = {}

    def __enter__(self) -> Self:
        self.state.root.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        for side in ("api", "envd"):
            self.come(side)
        self.state.url = self.api_url
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        def end_all() -> None:
            for sandbox in list(self.state.sandboxes.values()):
                self.state.kill(sandbox)

        self.do(end_all)
        for side in list(self._servers):
            self.go(side)
        self._call(self._cancel_rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['api']}"

    @property
    def environ(self) -> dict[str, str]:
        """What points the SDK here."""
        return {
            "E2B_API_KEY": self.state.api_key,
            "E2B_API_URL": self.api_url,
            "E2B_SANDBOX_URL": f"http://127.0.0.1:{self._ports['envd']}",
        }

    @property
    def builds(self) -> list[Build]:
        return list(self.state.builds.values())

    def live(self) -> list[str]:
        """The ids of all sandboxes, running or paused."""
        return list(self.state.sandboxes)

    def fail(self, match: str, **what: Any) -> Fault:
        """Inject a fault; see `Fault`."""
        fault = Fault(match=match, **what)
        self.state.faults.append(fault)
        return fault

    def come(self, side: Side) -> None:
        """Let one side be reached, on the port that it had."""
        self._call(self._serve(side))

    def go(self, side: Side) -> None:
        """Let one side vanish: connections break, new ones are refused."""
        self._call(self._vanish(side))

    def do(self, action: Callable[[], Any]) -> Any:
        """Run something on the fake's event loop."""

        async def run() -> Any:
            return action()

        return self._call(run())

    def pause(self, sandbox_id: str) -> None:
        self.do(lambda: self.state.pause(self.state.sandboxes[sandbox_id]))

    def end(self, sandbox_id: str) -> None:
        """As when its time is over."""
        self.do(lambda: self.state.end(self.state.sandboxes[sandbox_id]))

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _serve(self, side: Side) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._ports.get(side, 0)))
        self._ports[side] = listener.getsockname()[1]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self._answer(side, Exchange(scope, receive, send))

        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn offers nothing else
            await asyncio.sleep(0.005)
        self._servers[side] = (server, task)

    async def _vanish(self, side: Side) -> None:
        server, task = self._servers.pop(side)
        server.should_exit = server.force_exit = True
        for connection in list(server.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]
        await task

    async def _cancel_rest(self) -> None:
        rest_of = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest_of:
            task.cancel()
        await asyncio.gather(*rest_of, return_exceptions=True)

    async def _answer(self, side: Side, exchange: Exchange) -> None:
        call = f"{exchange.method} {exchange.path}"
        self.state.calls.append(call)
        fault = self.state.take_fault(call)
        serve = rest.serve if side == "api" else envd.serve
        if fault is None:
            await serve(self.state, exchange)
        elif fault.drop:
            if fault.after:
                await serve(self.state, _Unheard(exchange))
            await exchange.drop()
        else:
            await exchange.body()
            headers = [(name.encode(), value.encode()) for name, value in fault.headers.items()]
            await exchange.reply(fault.status, {"code": fault.status, "message": fault.message}, headers)


class _Unheard(Exchange):
    """An exchange whose answer nobody hears."""

    def __init__(self, exchange: Exchange) -> None:
        async def nowhere(_message: Any) -> None:
            pass

        super().__init__(exchange.scope, exchange.receive, nowhere)
