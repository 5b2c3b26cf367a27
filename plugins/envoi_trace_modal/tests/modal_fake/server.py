"""The fake as a whole: Modal's control plane and command router on the loopback interface, for the real SDK.

    with FakeModal(tmp_path) as fake:
        os.environ |= fake.environ
        ...

Two servers on an event loop in a thread of their own; either can go and come back. The SDK's wire is real, and so are
the commands: each sandbox is a machine of its own below bubblewrap. What is only assumed of the real cloud stands in
`test_live.py`: what happens at the end of a life and after an `exec` timeout, and how errors are told. There are no
limits of CPU and memory, no idle timeout, no volumes, no graphics cards, and image builds run nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import grpclib.server
from grpclib import GRPCError, Status
from modal._utils.grpc_utils import custom_detail_codec
from modal_fake.control_plane import ControlPlane
from modal_fake.router import Router
from modal_fake.state import Result, State
from modal_proto.api_grpc import ModalClientBase
from modal_proto.task_command_router_grpc import TaskCommandRouterBase

Side = Literal["plane", "router"]


class _Server(grpclib.server.Server):
    """One whose connections can be broken."""

    def __init__(self, handlers: list[Any]) -> None:
        super().__init__(handlers, status_details_codec=custom_detail_codec)
        self._protocols: list[Any] = []

    def _protocol_factory(self) -> Any:
        protocol = super()._protocol_factory()
        self._protocols.append(protocol)
        return protocol

    def break_off(self) -> None:
        self.close()
        for protocol in self._protocols:
            transport = getattr(getattr(protocol, "connection", None), "_transport", None)
            if transport is not None:
                transport.abort()


class FakeModal:
    """Enter it to start, leave it to end everything."""

    def __init__(self, root: Path) -> None:
        self.state = State(root)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._ports: dict[Side, int] = {}
        self._servers: dict[Side, _Server] = {}

    def __enter__(self) -> Self:
        self.state.root.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        for side in ("plane", "router"):
            self.come(side)
        self.state.router_url = f"http://127.0.0.1:{self._ports['router']}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._end_all)
        for side in list(self._servers):
            self.go(side)
        self._call(self._cancel_rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def environ(self) -> dict[str, str]:
        """What points the SDK here."""
        token_id, token_secret = self.state.token
        return {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{self._ports['plane']}",
            "MODAL_TOKEN_ID": token_id,
            "MODAL_TOKEN_SECRET": token_secret,
            "MODAL_CONFIG_PATH": str(self.state.root / "no-modal.toml"),
        }

    def live(self) -> list[str]:
        """The ids of all sandboxes that have not ended."""
        return self.state.live()

    def fail(self, rpc: str, status: Status, message: str = "as the test wants", *, times: int = 1) -> None:
        """Let the next calls of an RPC fail."""
        self.state.faults[rpc] += [GRPCError(status, message)] * times

    def end(self, sandbox_id: str) -> None:
        """As when its life is over."""
        self.do(lambda: self.state.sandboxes[sandbox_id].end(Result.GENERIC_STATUS_TIMEOUT))

    def come(self, side: Side) -> None:
        """Let one side be reached, on the port that it had."""
        self._call(self._serve(side))

    def go(self, side: Side) -> None:
        """Let one side vanish: connections break, new ones are refused."""
        self.do(self._servers.pop(side).break_off)

    def do(self, action: Callable[[], Any]) -> Any:
        """Run something on the fake's event loop."""

        async def run() -> Any:
            return action()

        return self._call(run())

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _end_all(self) -> None:
        for sandbox in self.state.sandboxes.values():
            sandbox.end(Result.GENERIC_STATUS_TERMINATED)

    async def _serve(self, side: Side) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._ports.get(side, 0)))
        self._ports[side] = listener.getsockname()[1]
        if side == "plane":
            handlers = served(ModalClientBase, ControlPlane(self.state), self.state)
        else:
            handlers = served(TaskCommandRouterBase, Router(self.state), self.state)
        server = self._servers[side] = _Server([handlers])
        await server.start(sock=listener)

    async def _cancel_rest(self) -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def served(base: type, handlers: object, state: State) -> Any:
    """Every method of a service: ours, or UNIMPLEMENTED. Each call is noted, and fails or waits as a test wants."""

    def method(name: str) -> Callable[..., Any]:
        async def answer(_self: object, stream: Any) -> None:
            state.calls.append(name)
            if base is ModalClientBase:
                _check_token(state, stream)
            await asyncio.sleep(state.delays_s.get(name, 0.0))
            if state.faults[name]:
                raise state.faults[name].pop(0)
            found = getattr(handlers, name, None)
            if found is None:
                raise GRPCError(Status.UNIMPLEMENTED, f"the fake has no {name}")
            if not (state.lost_answers.get(name) or state.late_s.get(name)):
                await found(stream)
                return
            await found(_Held(stream, state, name))

        return answer

    names = base.__abstractmethods__  # type: ignore[attr-defined]
    return type("Served", (base,), {name: method(name) for name in names})()


def _check_token(state: State, stream: Any) -> None:
    given = (stream.metadata.get("x-modal-token-id"), stream.metadata.get("x-modal-token-secret"))
    if given != state.token:
        raise GRPCError(Status.UNAUTHENTICATED, f"Token validation failed for token id {given[0]}")


class _Held:
    """A stream whose answer comes late, or not at all."""

    def __init__(self, stream: Any, state: State, name: str) -> None:
        self._stream, self._state, self._name = stream, state, name
        self.recv_message = stream.recv_message

    async def send_message(self, message: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the SDK went away: nothing is undone by that
            await asyncio.sleep(self._state.late_s.get(self._name, 0.0))
        if self._state.lost_answers.get(self._name):
            self._state.lost_answers[self._name] -= 1
            raise GRPCError(Status.UNAVAILABLE, "the answer got lost")
        await self._stream.send_message(message)
