"""Functions on the fake control plane: deployed, started, run for real in a process of their own, and killed for real.

A "container" is a process with a home, a working directory and an environment of its own, which gets what the SDK
sent: the pickled function, the pickled arguments, the secrets as variables. A preemption is SIGKILL, and the same
input started again in a new container. Named secrets are here too: only functions use them.

Assumed of the real control plane, and never compared with it: a preemption is no retry; a container that dies without
a result counts as a failure and is retried as the function's policy says; a cancelled input is SIGUSR1 in its
container, which is killed a while later when its containers are to be terminated.
"""

# ruff: noqa: N802 - methods are named as the RPCs

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import pickle
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from grpclib import GRPCError, Status
from modal._serialization import serialize
from modal_proto import api_pb2 as api

Result = api.GenericResult
RUNNER = Path(__file__).parent / "container.py"
CANCEL_GRACE_S = 15.0


def jwt(lifetime_s: float = 3600) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'exp': time.time() + lifetime_s})}.x"


@attrs.define
class App:
    id: str
    name: str
    functions: dict[str, str] = attrs.field(factory=dict)
    is_deployed: bool = False


@attrs.define
class Function:
    id: str
    app_id: str
    name: str
    definition: Any = None
    secret_ids: list[str] = attrs.field(factory=list)

    @property
    def handle(self) -> Any:
        return api.FunctionHandleMetadata(
            function_name=self.name,
            function_type=api.Function.FUNCTION_TYPE_FUNCTION,
            definition_id=f"de-{self.id}",
            app_id=self.app_id,
            supported_input_formats=[api.DATA_FORMAT_PICKLE],
            supported_output_formats=[api.DATA_FORMAT_PICKLE],
        )


@attrs.define
class Call:
    id: str
    function: Function
    arguments: bytes
    """Pickled `(args, kwargs)`."""
    containers: list[Path] = attrs.field(factory=list)
    process: asyncio.subprocess.Process | None = None
    is_preempted: bool = False
    is_cancelled: bool = False
    result: Any = None
    done: asyncio.Event = attrs.field(factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def output(self) -> str:
        """What its containers printed."""
        return "".join((folder / "log").read_text(errors="replace") for folder in self.containers)


@attrs.define
class Secret:
    id: str
    name: str
    variables: dict[str, str]
    created_at: float = attrs.field(factory=time.time)


@attrs.define
class Functions:
    """All of it, for the handlers and for the tests."""

    root: Path
    variables: Callable[[], dict[str, str]]
    """How a container reaches this control plane."""
    apps: dict[str, App] = attrs.field(factory=dict)
    functions: dict[str, Function] = attrs.field(factory=dict)
    calls: dict[str, Call] = attrs.field(factory=dict)
    secrets: dict[str, Secret] = attrs.field(factory=dict)
    blobs: dict[str, bytes] = attrs.field(factory=dict)
    may_start: bool = True
    """While False, containers wait: there is no capacity."""
    raises: Exception | None = None
    """What the function raises instead of being run."""
    _blob_url: str = ""
    _blob_server: Any = None
    _killers: list[asyncio.Task[None]] = attrs.field(factory=list)

    def preempt(self, call: Call) -> None:
        """From a test's thread: take the container away, and start the same input again."""
        assert call.process is not None
        call.is_preempted = True
        self._kill(call)

    def _kill(self, call: Call) -> None:
        if call.process is not None and call.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(call.process.pid, signal.SIGKILL)

    async def blob_url(self) -> str:
        from aiohttp import web

        if self._blob_server is None:
            application = web.Application(client_max_size=1024**3)
            application.router.add_put("/{name}", self._put_blob)
            application.router.add_get("/{name}", self._get_blob)
            self._blob_server = web.AppRunner(application, shutdown_timeout=1)
            await self._blob_server.setup()
            site = web.TCPSite(self._blob_server, "127.0.0.1", 0)
            await site.start()
            self._blob_url = f"http://127.0.0.1:{self._blob_server.addresses[0][1]}"
        return self._blob_url

    async def _put_blob(self, request: Any) -> Any:
        from aiohttp import web

        data = await request.read()
        self.blobs[request.match_info["name"]] = data
        return web.Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    async def _get_blob(self, request: Any) -> Any:
        from aiohttp import web

        return web.Response(body=self.blobs[request.match_info["name"]])

    async def close(self) -> None:
        """On the server's loop: no container outlives the control plane."""
        for task in self._killers:
            task.cancel()
        for call in self.calls.values():
            if call.task is not None:
                call.task.cancel()
            self._kill(call)
            if call.process is not None:
                await call.process.wait()
        if self._blob_server is not None:
            await self._blob_server.cleanup()

    # -- containers -------------------------------------------------------------------------------

    def start(self, function: Function, arguments: bytes) -> Call:
        call = Call(id=f"fc-{uuid.uuid4().hex[:22]}", function=function, arguments=arguments)
        self.calls[call.id] = call
        call.task = asyncio.create_task(self._run(call))
        return call

    async def _run(self, call: Call) -> None:
        policy = call.function.definition.retry_policy
        failures = 0
        while call.result is None:
            while not self.may_start and not call.is_cancelled:  # noqa: ASYNC110 - set from a test's thread
                await asyncio.sleep(0.05)
            if call.is_cancelled:
                call.result = Result(status=Result.GENERIC_STATUS_TERMINATED, exception="cancelled")
                break
            found = await self._run_container(call)
            if call.is_cancelled and found is None:
                found = Result(status=Result.GENERIC_STATUS_TERMINATED, exception="cancelled")
            elif call.is_preempted:
                call.is_preempted = False
                continue
            if found is None:
                found = Result(status=Result.GENERIC_STATUS_FAILURE, exception="the container died")
            if found.status == Result.GENERIC_STATUS_FAILURE and failures < policy.retries:
                failures += 1
                await asyncio.sleep(min(policy.initial_delay_ms / 1000, 0.2))
                continue
            call.result = found
        call.done.set()

    async def _run_container(self, call: Call) -> Any:
        """Its result; None when it died without one."""
        if self.raises is not None:
            return Result(
                status=Result.GENERIC_STATUS_FAILURE, data=serialize(self.raises), exception=repr(self.raises)
            )
        folder = self.root / "containers" / uuid.uuid4().hex
        for name in ("home", "work", "tmp"):
            (folder / name).mkdir(parents=True)
        (folder / "function").write_bytes(call.function.definition.function_serialized)
        (folder / "arguments").write_bytes(call.arguments)
        call.containers.append(folder)
        secrets: dict[str, str] = {}
        for secret_id in call.function.secret_ids:
            secrets |= self.secrets[secret_id].variables
        environ = {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"),
            "PYTHONUNBUFFERED": "1", **self.variables(), **secrets,
        }  # fmt: skip
        with (folder / "log").open("wb") as log:
            call.process = await asyncio.create_subprocess_exec(
                sys.executable, str(RUNNER), str(folder), cwd=folder / "work", env=environ, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        await call.process.wait()
        result = folder / "result"
        if not result.exists():
            return None
        kind, data, text = pickle.loads(result.read_bytes())
        status = Result.GENERIC_STATUS_SUCCESS if kind == "value" else Result.GENERIC_STATUS_FAILURE
        return Result(status=status, data=data, exception=text)

    async def cancel(self, call: Call, *, terminate: bool) -> None:
        call.is_cancelled = True
        if call.process is None or call.process.returncode is not None:
            return
        call.process.send_signal(signal.SIGUSR1)
        if terminate:

            async def kill_later() -> None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(call.done.wait(), CANCEL_GRACE_S)
                self._kill(call)

            self._killers.append(asyncio.create_task(kill_later()))


class FunctionRpcs:
    """Handlers, mixed into the control plane's: `state.functions` is a `Functions`, `state.secrets` a dict."""

    state: Any

    @property
    def _all(self) -> Functions:
        found: Functions = self.state.functions
        return found

    # -- apps -------------------------------------------------------------------------------------

    async def AppGetByDeploymentName(self, stream):
        request = await stream.recv_message()
        found = [app for app in self._all.apps.values() if app.name == request.name and app.is_deployed]
        await stream.send_message(api.AppGetByDeploymentNameResponse(app_id=found[0].id if found else ""))

    async def AppCreate(self, stream):
        request = await stream.recv_message()
        app = App(id=f"ap-{uuid.uuid4().hex[:22]}", name=request.description)
        self._all.apps[app.id] = app
        await stream.send_message(api.AppCreateResponse(app_id=app.id, app_page_url="http://modal.invalid/app"))

    async def AppGetLayout(self, stream):
        request = await stream.recv_message()
        layout = api.AppLayout(function_ids=self._all.apps[request.app_id].functions)
        await stream.send_message(api.AppGetLayoutResponse(app_layout=layout))

    async def AppHeartbeat(self, stream):
        from google.protobuf.empty_pb2 import Empty

        await stream.recv_message()
        await stream.send_message(Empty())

    async def AppClientDisconnect(self, stream):
        from google.protobuf.empty_pb2 import Empty

        request = await stream.recv_message()
        app = self._all.apps.get(request.app_id)
        if app is not None and not app.is_deployed:
            del self._all.apps[app.id]
        await stream.send_message(Empty())

    async def AppPublish(self, stream):
        request = await stream.recv_message()
        app = self._all.apps[request.app_id]
        app.name, app.functions, app.is_deployed = request.name, dict(request.function_ids), True
        await stream.send_message(api.AppPublishResponse(url="http://modal.invalid/app", deployed_at=time.time()))

    # -- functions --------------------------------------------------------------------------------

    async def FunctionPrecreate(self, stream):
        request = await stream.recv_message()
        function_id = request.existing_function_id or f"fu-{uuid.uuid4().hex[:22]}"
        function = Function(id=function_id, app_id=request.app_id, name=request.function_name)
        self._all.functions[function.id] = function
        response = api.FunctionPrecreateResponse(function_id=function.id, handle_metadata=function.handle)
        await stream.send_message(response)

    async def FunctionCreate(self, stream):
        request = await stream.recv_message()
        function = self._all.functions[request.existing_function_id]
        function.definition = request.function
        function.secret_ids = list(request.function.secret_ids)
        response = api.FunctionCreateResponse(function_id=function.id, handle_metadata=function.handle)
        response.function_data.ranked_functions.add().function.CopyFrom(request.function)
        await stream.send_message(response)

    async def FunctionGet(self, stream):
        request = await stream.recv_message()
        for app in self._all.apps.values():
            if app.is_deployed and app.name == request.app_name and request.object_tag in app.functions:
                function = self._all.functions[app.functions[request.object_tag]]
                response = api.FunctionGetResponse(function_id=function.id, handle_metadata=function.handle)
                response.function.ranked_functions.add().function.CopyFrom(function.definition)
                await stream.send_message(response)
                return
        raise GRPCError(Status.NOT_FOUND, f"no function {request.object_tag} in {request.app_name}")

    async def FunctionBindParams(self, stream):
        request = await stream.recv_message()
        base, options = self._all.functions[request.function_id], request.function_options
        bound = attrs.evolve(base, id=f"fu-{uuid.uuid4().hex[:22]}")
        if options.replace_secret_ids:
            for secret_id in options.secret_ids:
                self._secret(secret_id)
            bound.secret_ids = list(options.secret_ids)
        self._all.functions[bound.id] = bound
        response = api.FunctionBindParamsResponse(bound_function_id=bound.id, handle_metadata=bound.handle)
        await stream.send_message(response)

    async def FunctionMap(self, stream):
        request = await stream.recv_message()
        function = self._all.functions[request.function_id]
        [item] = request.pipelined_inputs
        blob_id = item.input.args_blob_id
        call = self._all.start(function, self._all.blobs[blob_id] if blob_id else item.input.args)
        response = api.FunctionMapResponse(function_call_id=call.id, function_call_jwt=jwt())
        response.pipelined_inputs.add(idx=item.idx, input_id=f"in-{call.id[3:]}", input_jwt=jwt())
        await stream.send_message(response)

    async def FunctionGetOutputs(self, stream):
        request = await stream.recv_message()
        call = self._call(request.function_call_id)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(call.done.wait(), max(request.timeout, 0.01))
        response = api.FunctionGetOutputsResponse(num_unfinished_inputs=int(call.result is None))
        if call.result is not None:
            response.outputs.add(result=call.result, data_format=api.DATA_FORMAT_PICKLE)
        await stream.send_message(response)

    async def FunctionCallFromId(self, stream):
        request = await stream.recv_message()
        call = self._call(request.function_call_id)
        await stream.send_message(api.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=1))

    async def FunctionCallCancel(self, stream):
        from google.protobuf.empty_pb2 import Empty

        request = await stream.recv_message()
        await self._all.cancel(self._call(request.function_call_id), terminate=request.terminate_containers)
        await stream.send_message(Empty())

    def _call(self, call_id: str) -> Call:
        if call_id not in self._all.calls:
            raise GRPCError(Status.NOT_FOUND, f"no function call {call_id}")
        return self._all.calls[call_id]

    # -- blobs ------------------------------------------------------------------------------------

    async def BlobCreate(self, stream):
        await stream.recv_message()
        name = f"bl-{uuid.uuid4().hex[:22]}"
        response = api.BlobCreateResponse(blob_id=name, blob_ids=[name])
        response.upload_urls.items.append(f"{await self._all.blob_url()}/{name}")
        await stream.send_message(response)

    async def BlobGet(self, stream):
        request = await stream.recv_message()
        await stream.send_message(api.BlobGetResponse(download_url=f"{await self._all.blob_url()}/{request.blob_id}"))

    # -- named secrets ----------------------------------------------------------------------------

    async def SecretGetOrCreate(self, stream):
        request = await stream.recv_message()
        named = [each for each in self._all.secrets.values() if each.name and each.name == request.deployment_name]
        if named and request.object_creation_type == api.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"there is a secret {request.deployment_name}")
        if request.object_creation_type == api.OBJECT_CREATION_TYPE_UNSPECIFIED and not named:
            raise GRPCError(Status.NOT_FOUND, f"no secret {request.deployment_name}")
        if named:
            secret = named[0]
        else:
            secret = Secret(f"st-{uuid.uuid4().hex[:22]}", request.deployment_name, dict(request.env_dict))
            self._all.secrets[secret.id] = secret
            self.state.secrets[secret.id] = secret.variables  # where sandboxes look
        await stream.send_message(api.SecretGetOrCreateResponse(secret_id=secret.id, metadata=_metadata(secret)))

    async def SecretList(self, stream):
        request = await stream.recv_message()
        before = request.pagination.created_before
        found = [each for each in self._all.secrets.values() if each.name and (not before or each.created_at < before)]
        found.sort(key=lambda secret: -secret.created_at)
        items = [
            api.SecretListItem(label=each.name, secret_id=each.id, metadata=_metadata(each))
            for each in found[: request.pagination.max_objects or 100]
        ]
        await stream.send_message(api.SecretListResponse(items=items))

    async def SecretDelete(self, stream):
        from google.protobuf.empty_pb2 import Empty

        request = await stream.recv_message()
        self._secret(request.secret_id)
        del self._all.secrets[request.secret_id]
        del self.state.secrets[request.secret_id]
        await stream.send_message(Empty())

    def _secret(self, secret_id: str) -> Secret:
        if secret_id not in self._all.secrets:
            raise GRPCError(Status.NOT_FOUND, f"no secret {secret_id}")
        return self._all.secrets[secret_id]


def _metadata(secret: Secret) -> Any:
    created = api.CreationInfo(created_at=secret.created_at)
    return api.SecretMetadata(name=secret.name, creation_info=created, keys=sorted(secret.variables))
