"""Make a sandbox on Modal, find it again, list what is left."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import attrs
import modal  # noqa: TID253

from envoi_trace_core.errors import EnvoiTraceError, SandboxError, SandboxLostError, UsageError
from envoi_trace_core.protocols import SandboxInfo, SandboxRole
from envoi_trace_core.specs import SandboxRequest
from envoi_trace_modal.sandbox.calls import call, quietly
from envoi_trace_modal.sandbox.failures import GONE, one_line
from envoi_trace_modal.sandbox.limits import lifetime_s
from envoi_trace_modal.sandbox.options import ModalOptions
from envoi_trace_modal.sandbox.recipe import HARNESS_PYTHON, image_of
from envoi_trace_modal.sandbox.sandbox import SUPPORT, WORKSPACE, ModalSandbox, end_sandbox

BUILD_S = 3600.0
CREATE_S = 120.0
"""One try: Modal answers when a machine was found."""
CANCELLED_S = 20.0
"""How long a create that was cancelled may still answer before it is looked for by name."""
CLEAN_UP_S = 30.0
PREPARE_S = 120.0
"""The first command: the container may still be starting."""

OURS = "envoi-trace"
ROLES: Mapping[str, SandboxRole] = {"agent": "agent", "evaluation": "evaluation"}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_PREPARE = 'mkdir -p "$1" "$2" && chmod 700 "$2"'


@attrs.frozen(kw_only=True)
class Record:
    """What the tags of a sandbox say. Tags are short words, so that anyone may filter by them."""

    trajectory_id: str
    role: SandboxRole
    ends_at: datetime

    def tags(self) -> dict[str, str]:
        """To give to a create."""
        return {
            OURS: "1",
            "trajectory": self.trajectory_id,
            "role": self.role,
            "ends": str(int(self.ends_at.timestamp())),
        }

    @classmethod
    def parse(cls, tags: Mapping[str, str]) -> Record | None:
        """Of a sandbox; None when it is none of ours."""
        role, ends = ROLES.get(tags.get("role", "")), tags.get("ends", "")
        if tags.get(OURS) != "1" or role is None or not ends.isdecimal():
            return None
        return cls(
            trajectory_id=tags.get("trajectory", ""),
            role=role,
            ends_at=datetime.fromtimestamp(min(int(ends), 1 << 33), UTC),
        )


async def create(request: SandboxRequest, options: ModalOptions) -> ModalSandbox:
    """Make a sandbox; when one of that name lives, that one.

    Raises:
        UsageError: The token is missing or refused, or Modal does not take an option.
        SandboxError: Modal can't be reached, has no room for too long, or the image can't be built.
    """
    placed = _volumes(options)
    app = await _app(options)
    name = modal_name(request.name)
    found = await _find(options, name)
    if found is not None:
        return await _prepared(found)
    image = await _built(image_of(request, options), app, request)
    record = Record(
        trajectory_id=request.trajectory_id,
        role=request.role,
        ends_at=datetime.fromtimestamp(int(time.time()) + lifetime_s(request.lifetime_s, options), UTC),
    )
    wanted: dict[str, Any] = {
        "app": app,
        "name": name,
        "image": image,
        "tags": record.tags(),
        "timeout": lifetime_s(request.lifetime_s, options),
        "idle_timeout": int(options.idle_timeout) or None,
        "cpu": options.cpu,
        "memory": options.memory_mib,
        "gpu": options.gpu or None,
        "region": list(options.region) or None,
        "cloud": options.cloud or None,
        "block_network": not options.internet,
        "secrets": [modal.Secret.from_name(each, environment_name=_environment(options)) for each in options.secrets],
        "volumes": {
            place: modal.Volume.from_name(each, environment_name=_environment(options))
            for each, place in placed.items()
        },
    }
    return await _prepared(await _made(wanted, record, request, options))


async def attach(sandbox_id: str, _options: ModalOptions) -> ModalSandbox:
    """A sandbox by its id.

    Raises:
        SandboxLostError: It is gone.
    """

    async def once() -> ModalSandbox | None:
        try:
            sandbox = await modal.Sandbox.from_id.aio(sandbox_id)
            return await _alive(sandbox)
        except (*GONE, modal.exception.InvalidError):
            return None

    what = f"Modal could not be asked for the sandbox {sandbox_id}"
    found = await call(what, once, sandbox_id=sandbox_id)
    if found is None:
        raise SandboxLostError(f"The Modal sandbox {sandbox_id} has ended.", retryable=True)
    return found


async def list_live(options: ModalOptions) -> Sequence[SandboxInfo]:
    """Every sandbox of ours in the app."""

    async def once() -> list[SandboxInfo]:
        app = await modal.App.lookup.aio(options.app, create_if_missing=True, environment_name=_environment(options))
        found = []
        async for sandbox in modal.Sandbox.list.aio(app_id=app.app_id, tags={OURS: "1"}):
            try:
                record = Record.parse(await sandbox.get_tags.aio())
            except GONE:
                continue
            if record is not None:
                info = SandboxInfo(id=sandbox.object_id, trajectory_id=record.trajectory_id, role=record.role)
                found.append(info)
        return found

    return await call("Modal's sandboxes can't be listed", once)


def modal_name(name: str) -> str:
    """A name that Modal takes, told apart as the given one is."""
    if _NAME.fullmatch(name) and not name.startswith("ap-"):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)[:44]}-{digest}"


async def _app(options: ModalOptions) -> modal.App:
    return await call(
        "Modal could not be asked for the app of the sandboxes",
        lambda: modal.App.lookup.aio(options.app, create_if_missing=True, environment_name=_environment(options)),
    )


async def _find(options: ModalOptions, name: str) -> ModalSandbox | None:
    """The living sandbox of that name."""

    async def once() -> ModalSandbox | None:
        try:
            sandbox = await modal.Sandbox.from_name.aio(options.app, name, environment_name=_environment(options))
            return await _alive(sandbox)
        except GONE:
            return None

    return await call(f"Modal could not be asked for the sandbox named {name}", once)


async def _alive(sandbox: modal.Sandbox) -> ModalSandbox | None:
    """One that was found, unless it has ended or is none of ours."""
    if await sandbox.poll.aio() is not None:
        return None
    record = Record.parse(await sandbox.get_tags.aio())
    if record is None:
        return None
    return ModalSandbox(sandbox=sandbox, ends_at=record.ends_at, python=HARNESS_PYTHON)


async def _built(image: modal.Image, app: modal.App, request: SandboxRequest) -> modal.Image:
    """Build the image where it is not built yet: that may take minutes, a create takes seconds.

    Raises:
        SandboxError: It can't be built.
    """
    where = f"{request.dockerfile}" if request.dockerfile is not None else "the default image"
    what = f"The image of the sandbox ({where}) could not be built"
    mend = "mend the environment's Dockerfile; modal app logs shows the build"

    async def once() -> modal.Image:
        try:
            return await image.build.aio(app)
        except modal.exception.ImageBuildError as error:
            raise SandboxError(f"{what}: {one_line(error)}", mend=mend) from error
        except (modal.exception.InvalidError, FileNotFoundError) as error:
            raise UsageError(f"{what}: {one_line(error)}", mend=mend) from error

    return await call(what, once, patience_s=BUILD_S, report=request.report)


async def _made(
    wanted: Mapping[str, Any], record: Record, request: SandboxRequest, options: ModalOptions
) -> ModalSandbox:
    """A new one. A cancel that comes meanwhile leaves none: Modal keeps what a cancelled create made."""
    made: list[ModalSandbox] = []
    what = "Modal made no sandbox"

    async def once() -> ModalSandbox:
        try:
            sandbox = await modal.Sandbox.create.aio(**wanted)
        except modal.exception.AlreadyExistsError:  # of a try whose answer was lost
            found = await _find(options, wanted["name"])
            if found is None:
                raise SandboxError(f"{what}: its name is taken, and gone again.", retryable=True) from None
            return found
        except (modal.exception.InvalidError, modal.exception.NotFoundError) as error:
            mend = "envoi-trace plugins show modal lists the options"
            raise UsageError(f"{what}: {one_line(error)}", mend=mend) from error
        return ModalSandbox(sandbox=sandbox, ends_at=record.ends_at, python=HARNESS_PYTHON)

    async def shielded(scope: anyio.CancelScope, done: anyio.Event) -> None:
        with scope:
            try:
                patience_s, busy_s = CREATE_S, options.busy_wait
                made.append(await call(what, once, patience_s=patience_s, busy_s=busy_s, report=request.report))
            except EnvoiTraceError as error:
                failures.append(error)
        done.set()

    failures: list[EnvoiTraceError] = []
    scope, done = anyio.CancelScope(shield=True), anyio.Event()
    is_kept = False
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shielded, scope, done)
            try:
                await done.wait()
            except BaseException:
                scope.deadline = anyio.current_time() + CANCELLED_S
                raise
        if failures:
            raise failures[0]
        is_kept = True
        return made[0]
    finally:
        if not is_kept:
            await quietly(lambda: _forget(made, options, wanted["name"]), timeout_s=CLEAN_UP_S)


async def _forget(made: Sequence[ModalSandbox], options: ModalOptions, name: str) -> None:
    """End what a create that was given up made all the same; `envoi-trace cleanup` finds what even this does not."""
    found = made[0] if made else await _find(options, name)
    if found is not None:
        await end_sandbox(found.sandbox)


async def _prepared(sandbox: ModalSandbox) -> ModalSandbox:
    """Make the folders that commands work in."""
    try:
        done = await sandbox.run(["sh", "-c", _PREPARE, "sh", WORKSPACE, SUPPORT], timeout_s=PREPARE_S, cwd="/")
    except BaseException:
        await quietly(sandbox.close, timeout_s=CLEAN_UP_S)
        raise
    if done.exit_code:
        await quietly(sandbox.close, timeout_s=CLEAN_UP_S)
        raise SandboxError(f"{WORKSPACE} and {SUPPORT} could not be made in the Modal sandbox {sandbox.id}.")
    return sandbox


def _volumes(options: ModalOptions) -> dict[str, str]:
    """Each volume's name and place."""
    placed = {}
    for each in options.volumes:
        name, _, place = each.partition("=")
        if not name or not place.startswith("/"):
            raise UsageError(f"volumes={each!r} names no volume and place", mend="--sandbox-opt volumes=data=/data")
        placed[name] = place
    return placed


def _environment(options: ModalOptions) -> str | None:
    return options.environment or None
