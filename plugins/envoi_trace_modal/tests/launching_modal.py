"""The fake of Modal with functions beside its sandboxes."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType

import attrs
from modal_fake.control_plane import ControlPlane
from modal_fake.functions import Call, FunctionRpcs, Functions
from modal_fake.router import Router
from modal_fake.server import FakeModal, Side, _Server, served
from modal_fake.state import State
from modal_proto.api_grpc import ModalClientBase
from modal_proto.task_command_router_grpc import TaskCommandRouterBase


class _Plane(FunctionRpcs, ControlPlane):
    """Functions and their secrets before those of sandboxes alone."""


@attrs.define
class _State(State):
    functions: Functions = attrs.field(kw_only=True)


class LaunchingModal(FakeModal):
    """Enter it to start, leave it to end everything, containers of functions too."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.functions = Functions(root=root, variables=lambda: self.environ)
        self.state = _State(root, functions=self.functions)

    @property
    def variables(self) -> dict[str, str]:
        return self.environ

    def the_call(self) -> Call:
        [call] = self.functions.calls.values()
        return call

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self.functions.close())
        super().__exit__(kind, error, trace)

    async def _serve(self, side: Side) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._ports.get(side, 0)))
        self._ports[side] = listener.getsockname()[1]
        if side == "plane":
            handlers = served(ModalClientBase, _Plane(self.state), self.state)
        else:
            handlers = served(TaskCommandRouterBase, Router(self.state), self.state)
        server = self._servers[side] = _Server([handlers])
        await server.start(sock=listener)
