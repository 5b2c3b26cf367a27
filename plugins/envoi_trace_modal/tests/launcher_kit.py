"""A control plane with functions on the loopback interface, an S3 server, and the real command against both."""

# ruff: noqa: N802 - methods are named as the RPCs

from __future__ import annotations

import asyncio
import collections
import io
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import boto3
import grpclib.server
import pyarrow.parquet as pq
from grpclib import GRPCError, Status
from modal._utils.grpc_utils import custom_detail_codec
from modal_fake.functions import Call, FunctionRpcs, Functions, jwt
from modal_proto import api_pb2 as api
from modal_proto.api_grpc import ModalClientBase

TESTS = Path(__file__).parent
S3_SERVER = TESTS.parents[1] / "envoi_trace_s3" / "tests" / "s3_moto.py"
COMMAND = [sys.executable, "-m", "envoi_trace_core"]
CANARY = "canary-secret-access-key"

NEVER_SOLVED = """
import envoi

@envoi.test
async def never() -> dict[str, int]:
    return {"passed": 0, "failed": 1, "total": 1}
"""


@attrs.define
class Plane:
    """The fake's state, for its handlers and for tests."""

    root: Path
    functions: Functions = attrs.field(init=False)
    url: str = ""
    calls: list[str] = attrs.field(factory=list)
    faults: dict[str, list[Exception]] = attrs.field(factory=lambda: collections.defaultdict(list))
    image_error: str = ""
    secrets: dict[str, dict[str, str]] = attrs.field(factory=dict)
    delays_s: dict[str, float] = attrs.field(factory=dict)
    image_commands: list[str] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.functions = Functions(root=self.root, variables=lambda: {**self.variables, **pass_through()})

    @property
    def variables(self) -> dict[str, str]:
        return {
            "MODAL_SERVER_URL": self.url, "MODAL_TOKEN_ID": "ak-fake", "MODAL_TOKEN_SECRET": "as-fake",
            "MODAL_CONFIG_PATH": str(self.root / "no-modal.toml"),
        }  # fmt: skip

    def the_call(self) -> Call:
        [call] = self.functions.calls.values()
        return call


def pass_through() -> dict[str, str]:
    """What a real image would hold: the test's own sandbox plugin."""
    return {"PYTHONPATH": str(TESTS / "data" / "near")}


class _Control(FunctionRpcs):
    def __init__(self, state: Plane) -> None:
        self.state = state

    async def ClientHello(self, stream):
        await stream.recv_message()
        await stream.send_message(api.ClientHelloResponse())

    async def AuthTokenGet(self, stream):
        await stream.recv_message()
        await stream.send_message(api.AuthTokenGetResponse(token=jwt()))

    async def EnvironmentGetOrCreate(self, stream):
        await stream.recv_message()
        settings = api.EnvironmentSettings(image_builder_version="2025.06")
        metadata = api.EnvironmentMetadata(name="main", settings=settings)
        await stream.send_message(api.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata))

    async def MountBatchedCheckExistence(self, stream):
        await stream.recv_message()
        await stream.send_message(api.MountBatchedCheckExistenceResponse())

    async def MountPutFile(self, stream):
        await stream.recv_message()
        await stream.send_message(api.MountPutFileResponse(exists=True))

    async def MountGetOrCreate(self, stream):
        request = await stream.recv_message()
        self.state.image_commands += [f"MOUNT {file.filename}" for file in request.files]
        await stream.send_message(api.MountGetOrCreateResponse(mount_id=f"mo-{uuid.uuid4().hex[:22]}"))

    async def ImageGetOrCreate(self, stream):
        request = await stream.recv_message()
        self.state.image_commands += request.image.dockerfile_commands
        result = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_SUCCESS)
        if self.state.image_error:
            status = api.GenericResult.GENERIC_STATUS_FAILURE
            result = api.GenericResult(status=status, exception=self.state.image_error)
        image_id = f"im-{uuid.uuid4().hex[:22]}"
        await stream.send_message(api.ImageGetOrCreateResponse(image_id=image_id, result=result))


def _handlers(state: Plane) -> object:
    """Every method of the control plane: ours, or UNIMPLEMENTED; each call is noted, and may fail as a test wants."""
    control = _Control(state)

    def handler(name: str) -> Callable[..., Any]:
        async def answer(_self: object, stream: Any) -> None:
            state.calls.append(name)
            await asyncio.sleep(state.delays_s.get(name, 0.0))
            if state.faults[name]:
                raise state.faults[name].pop(0)
            method = getattr(control, name, None)
            if method is None:
                raise GRPCError(Status.UNIMPLEMENTED, f"the fake has no {name}")
            await method(stream)

        return answer

    served = type("Served", (ModalClientBase,), {name: handler(name) for name in ModalClientBase.__abstractmethods__})
    return served()


@contextmanager
def control_plane(root: Path) -> Iterator[Plane]:
    """In a thread of its own, so that the command, which is another process, is served while a test waits for it."""
    plane = Plane(root=root)
    ready, loops, stops = threading.Event(), [], []

    def main() -> None:
        async def serve() -> None:
            stop = asyncio.Event()
            server = grpclib.server.Server([_handlers(plane)], status_details_codec=custom_detail_codec)
            await server.start("127.0.0.1", 0)
            plane.url = f"http://127.0.0.1:{server._server.sockets[0].getsockname()[1]}"
            loops.append(asyncio.get_running_loop())
            stops.append(stop)
            ready.set()
            await stop.wait()
            await plane.functions.close()
            server.close()
            await server.wait_closed()

        asyncio.run(serve())

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield plane
    finally:
        loops[0].call_soon_threadsafe(stops[0].set)
        thread.join(60)


@contextmanager
def s3_server() -> Iterator[str]:
    words = [sys.executable, str(S3_SERVER)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@attrs.define
class Bench:
    """A folder with a task and an environment, a bucket, and the command."""

    root: Path
    plane: Any
    """A `Plane`, or a fake with sandboxes too."""
    s3_url: str
    bucket: str
    client: Any
    sandbox: str = "near"
    _started: list[subprocess.Popen[str]] = attrs.field(factory=list)

    def close(self) -> None:
        self.client.close()
        for process in self._started:
            process.kill()
            process.communicate(timeout=60)

    def script(self, *actions: dict[str, Any]) -> None:
        (self.task / "script.jsonl").write_text("".join(json.dumps(action) + "\n" for action in actions))

    @property
    def task(self) -> Path:
        return self.root / "task"

    @property
    def environ(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MODAL_"))},
            **self.plane.variables, **pass_through(),
            "ENVOI_TRACE_STATE_DIR": str(self.root / "state"), "ENVOI_TRACE_DISABLE_PLUGINS": "e2b",
            "AWS_S3_BUCKET": self.bucket, "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": CANARY,
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }  # fmt: skip

    def argv(self, *options: str) -> list[str]:
        return [
            *COMMAND, "--agent", "script", "--sandbox", self.sandbox, "--task", str(self.task), "--env",
            str(self.root / "env"), "--trajectory-id", "t1", *options,
        ]  # fmt: skip

    def run(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.cli(*self.argv(*options)[len(COMMAND) :], **variables)

    def cli(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in {**self.environ, **variables}.items() if value}
        return subprocess.run(
            [*COMMAND, *words], cwd=self.root, env=environ, capture_output=True, text=True, timeout=300, check=False
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.argv(*options), cwd=self.root, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def objects(self) -> dict[str, bytes]:
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {
            item["Key"]: self.client.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read() for item in found
        }


def make_bench(root: Path, plane: Any, s3_url: str) -> Bench:
    client = boto3.client(
        "s3", endpoint_url=s3_url, region_name="us-east-1", aws_access_key_id="o", aws_secret_access_key="o"
    )
    bucket = f"bucket-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    bench = Bench(root=root, plane=plane, s3_url=s3_url, bucket=bucket, client=client)
    for folder in (bench.task, root / "env"):
        folder.mkdir(parents=True)
    (bench.task / "en.md").write_text("Write it.")
    (root / "env" / "main.py").write_text(NEVER_SOLVED)
    return bench


def rows_of(bench: Bench) -> list[dict[str, Any]]:
    """The trace in the bucket, by now."""
    data = bench.objects().get("trajectories/t1/trace.parquet")
    return pq.read_table(io.BytesIO(data)).to_pylist() if data else []


def wait_until(condition: Callable[[], object], *, timeout_s: float = 200.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
