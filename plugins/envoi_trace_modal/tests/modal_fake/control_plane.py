"""The control plane: apps, images, secrets, sandboxes. `functions.FunctionRpcs` can be mixed in beside it.

Image builds run nothing: ENV, WORKDIR and the text of RUN are kept, `RUN false` fails, COPY is ignored. Where the
plugin's recipe would have made its Python the fake links the one that runs the tests, which has the same packages.
"""

# ruff: noqa: N802 - methods are named as the RPCs

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import uuid
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_fake.boxes import Box
from modal_fake.state import Image, Result, Sandbox, State, jwt, new_id
from modal_proto import api_pb2 as api

HARNESS_PYTHON = "/opt/envoi-trace/python"
PAGE = 2
"""Few, so that listings have pages."""


class ControlPlane:
    """Its handlers."""

    def __init__(self, state: State) -> None:
        self.state = state

    async def ClientHello(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(api.ClientHelloResponse())

    async def AuthTokenGet(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(api.AuthTokenGetResponse(token=jwt()))

    async def AppGetOrCreate(self, stream: Any) -> None:
        request = await stream.recv_message()
        apps = self.state.apps
        if request.app_name not in apps:
            if request.object_creation_type != api.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise GRPCError(Status.NOT_FOUND, f"App {request.app_name} not found")
            apps[request.app_name] = new_id("ap", 22)
        await stream.send_message(api.AppGetOrCreateResponse(app_id=apps[request.app_name]))

    async def EnvironmentGetOrCreate(self, stream: Any) -> None:
        await stream.recv_message()
        settings = api.EnvironmentSettings(image_builder_version="2025.06")
        metadata = api.EnvironmentMetadata(name="main", settings=settings)
        await stream.send_message(api.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata))

    async def SecretGetOrCreate(self, stream: Any) -> None:
        request = await stream.recv_message()
        secret_id = f"st-{request.deployment_name or uuid.uuid4().hex}"
        if request.env_dict:
            self.state.secrets[secret_id] = dict(request.env_dict)
        if secret_id not in self.state.secrets:
            raise GRPCError(Status.NOT_FOUND, f"Secret {request.deployment_name} not found")
        await stream.send_message(api.SecretGetOrCreateResponse(secret_id=secret_id))

    async def VolumeGetOrCreate(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(api.VolumeGetOrCreateResponse(volume_id=f"vo-{request.deployment_name}"))

    async def MountGetOrCreate(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(api.MountGetOrCreateResponse(mount_id=new_id("mo", 22)))

    async def MountPutFile(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(api.MountPutFileResponse(exists=True))

    async def MountBatchedCheckExistence(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_message(api.MountBatchedCheckExistenceResponse())

    # -- images -----------------------------------------------------------------------------------

    async def ImageGetOrCreate(self, stream: Any) -> None:
        request = await stream.recv_message()
        commands = list(request.image.dockerfile_commands)
        bases = [base.image_id for base in request.image.base_images]
        image_id = f"im-{uuid.uuid5(uuid.NAMESPACE_OID, repr((commands, bases))).hex[:22]}"
        result = None
        if image_id in self.state.images:
            result = Result(status=Result.GENERIC_STATUS_SUCCESS)
        else:
            known = [self.state.images[base] for base in bases if base in self.state.images]
            self.state.images[image_id] = _built(known[0] if known else None, commands)
            self.state.built += commands
        # Without a result it is being built, and the SDK follows it.
        await stream.send_message(api.ImageGetOrCreateResponse(image_id=image_id, result=result))

    async def ImageJoinStreaming(self, stream: Any) -> None:
        request = await stream.recv_message()
        result = Result(status=Result.GENERIC_STATUS_SUCCESS)
        if "RUN false" in self.state.images[request.image_id].commands:
            del self.state.images[request.image_id]
            result = Result(status=Result.GENERIC_STATUS_FAILURE, exception="RUN false: exit status 1")
        await stream.send_message(api.ImageJoinStreamingResponse(entry_id="end", eof=True, result=result))

    # -- sandboxes --------------------------------------------------------------------------------

    async def SandboxCreateV2(self, stream: Any) -> None:
        request = await stream.recv_message()
        state, definition = self.state, request.definition
        if definition.name and state.named(request.app_id, definition.name):
            raise GRPCError(Status.ALREADY_EXISTS, f"Sandbox named {definition.name} exists")
        image = state.images[definition.image_id]
        sandbox_id = new_id("sb")
        env = {**image.env, **state.variables(request.secret_sources)}
        root = state.root / sandbox_id
        root.mkdir(parents=True)
        box = Box(root, workdir=definition.workdir or image.workdir, env=env)
        tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        sandbox = Sandbox(sandbox_id, request.app_id, definition, box, tags)
        state.sandboxes[sandbox_id] = sandbox
        has_python = any(HARNESS_PYTHON in command for command in image.commands)
        await box.start({HARNESS_PYTHON: Path(sys.prefix)} if has_python else {})
        sandbox.life = asyncio.create_task(self._live(sandbox))
        access = api.CommandRouterAccess(url=state.router_url, jwt=jwt())
        metadata = api.SandboxHandleMetadata(app_id=request.app_id)
        answer = {"sandbox_id": sandbox_id, "task_id": sandbox.task_id}
        response = api.SandboxCreateV2Response(**answer, metadata=metadata, command_router_access=access)
        await stream.send_message(response)

    async def _live(self, sandbox: Sandbox) -> None:
        seconds = float(sandbox.definition.timeout_secs)
        if self.state.longest_life_s is not None:
            seconds = min(seconds, self.state.longest_life_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sandbox.over.wait(), seconds)
        sandbox.end(Result.GENERIC_STATUS_TIMEOUT)

    async def SandboxGetTaskIdV2(self, stream: Any) -> None:
        request = await stream.recv_message()
        sandbox = self.state.sandbox(request.sandbox_id)
        known = {"task_result": sandbox.result} if sandbox.result else {"task_id": sandbox.task_id}
        await stream.send_message(api.SandboxGetTaskIdResponse(**known))

    async def SandboxGetCommandRouterAccess(self, stream: Any) -> None:
        request = await stream.recv_message()
        if self.state.sandbox(request.sandbox_id).result:
            raise GRPCError(Status.FAILED_PRECONDITION, "Sandbox has already shut down")
        answer = api.SandboxGetCommandRouterAccessResponse(url=self.state.router_url, jwt=jwt())
        await stream.send_message(answer)

    async def SandboxWaitV2(self, stream: Any) -> None:
        request = await stream.recv_message()
        sandbox = self.state.sandbox(request.sandbox_id)
        if request.timeout:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sandbox.over.wait(), request.timeout)
        metadata = api.SandboxHandleMetadata(app_id=sandbox.app_id)
        await stream.send_message(api.SandboxWaitResponse(result=sandbox.result, metadata=metadata))

    async def SandboxTerminateV2(self, stream: Any) -> None:
        request = await stream.recv_message()
        self.state.sandbox(request.sandbox_id).end(Result.GENERIC_STATUS_TERMINATED)
        await stream.send_message(api.SandboxTerminateResponse())

    async def SandboxTagsGetV2(self, stream: Any) -> None:
        request = await stream.recv_message()
        tags = self.state.sandbox(request.sandbox_id).tags
        answer = [api.SandboxTag(tag_name=name, tag_value=value) for name, value in tags.items()]
        await stream.send_message(api.SandboxTagsGetResponse(tags=answer))

    async def SandboxTagsSetV2(self, stream: Any) -> None:
        request = await stream.recv_message()
        tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        self.state.sandbox(request.sandbox_id).tags = tags
        await stream.send_message(Empty())

    async def SandboxGetFromNameV2(self, stream: Any) -> None:
        request = await stream.recv_message()
        found = self.state.named(self.state.apps.get(request.app_name), request.sandbox_name)
        if found is None:
            raise GRPCError(Status.NOT_FOUND, f"no sandbox is named {request.sandbox_name}")
        metadata = api.SandboxHandleMetadata(app_id=found.app_id)
        await stream.send_message(api.SandboxGetFromNameResponse(sandbox_id=found.id, metadata=metadata))

    async def SandboxGetFromName(self, stream: Any) -> None:
        """Of the first version, which the SDK asks for next; the fake has none."""
        request = await stream.recv_message()
        raise GRPCError(Status.NOT_FOUND, f"no sandbox is named {request.sandbox_name}")

    async def SandboxListV2(self, stream: Any) -> None:
        request = await stream.recv_message()
        wanted = {tag.tag_name: tag.tag_value for tag in request.tags}
        found = [
            sandbox
            for sandbox in self.state.sandboxes.values()
            if (not request.app_id or sandbox.app_id == request.app_id)
            and (request.include_finished or sandbox.result is None)
            and wanted.items() <= sandbox.tags.items()
            and (not request.before_timestamp or sandbox.created_at < request.before_timestamp)
        ]
        found.sort(key=lambda sandbox: -sandbox.created_at)
        infos = [
            api.SandboxInfo(
                id=sandbox.id,
                created_at=sandbox.created_at,
                app_id=sandbox.app_id,
                metadata=api.SandboxHandleMetadata(app_id=sandbox.app_id),
            )
            for sandbox in found[:PAGE]
        ]
        await stream.send_message(api.SandboxListResponse(sandboxes=infos))


def _built(base: Image | None, commands: list[str]) -> Image:
    image = Image(
        commands=[*(base.commands if base else []), *commands],
        env=dict(base.env) if base else {},
        workdir=base.workdir if base else "/root",
    )
    for line in commands:
        word, _, rest = line.strip().partition(" ")
        if word.upper() == "WORKDIR":
            image.workdir = rest.strip()
        elif word.upper() == "ENV":
            pairs = [each.partition("=") for each in shlex.split(rest)]
            image.env |= {name: value for name, equals, value in pairs if equals}
    return image
