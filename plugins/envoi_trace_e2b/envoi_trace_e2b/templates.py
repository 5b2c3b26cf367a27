"""The template of a sandbox: one by name, or one that is built once from its content and named after it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
from e2b import AsyncTemplate, BuildInfo, exceptions  # noqa: TID253
from e2b.template.types import TemplateBuildStatus  # noqa: TID253

from envoi_trace_core.errors import SandboxError, UsageError
from envoi_trace_core.specs import SandboxRequest
from envoi_trace_core.state import state_dir
from envoi_trace_e2b import recipe
from envoi_trace_e2b.calls import api_params, call
from envoi_trace_e2b.dockerfile import refuse_source, start_template
from envoi_trace_e2b.failures import is_passing, translate
from envoi_trace_e2b.options import E2bOptions

BUILD_S = 3600.0
BUILD_REQUEST_S = 600.0
"""One call of a build; the upload of its context is one."""
BUILD_TRIES = 3
LOG_LINES = 15
POLL_S = 0.2
UNDER_WAY = (TemplateBuildStatus.BUILDING, TemplateBuildStatus.WAITING)


@attrs.frozen(kw_only=True)
class TemplateChoice:
    """What a sandbox is made of."""

    name: str
    python: str | None
    """The harness's Python in it; None when nobody knows."""
    builder: Any = None
    """The steps; None for a template of the user's own."""


def choose_template(request: SandboxRequest, options: E2bOptions) -> TemplateChoice:
    """Name the template. Nothing is built and nobody is asked.

    Raises:
        UsageError: The environment's Dockerfile can't be built on E2B.
    """
    if options.template:
        return TemplateChoice(name=options.template, python=None)
    if options.memory_mb % 2 or options.memory_mb < 128 or options.cpu < 1:
        raise UsageError("E2B needs cpu of at least 1 and an even memory_mb of at least 128")
    builder = _builder(request, options)
    for step in recipe.steps(request.requirements):
        builder = builder.run_cmd(step, user="root")
    try:
        steps = json.loads(AsyncTemplate.to_json(builder))
    except ValueError as error:
        assert request.dockerfile is not None, "only COPY reads files"
        raise refuse_source(request.dockerfile, error) from error
    content = json.dumps([recipe.VERSION, options.cpu, options.memory_mb, steps], sort_keys=True)
    stem = _stem(request.dockerfile.parent.name if request.dockerfile else "base")
    name = f"envoi-trace-{stem}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    return TemplateChoice(name=name, python=recipe.HARNESS_PYTHON, builder=builder)


async def ensure_template(choice: TemplateChoice, request: SandboxRequest, options: E2bOptions) -> None:
    """Build the template unless it is there. Runs of this machine that want the same one wait for each other.

    Raises:
        SandboxError: It can't be built; the end of the build's log is in the message.
    """
    if choice.builder is None or await _is_ready(choice.name):
        return
    async with _lock(choice.name):
        if not await _is_ready(choice.name):
            request.report(f"building the E2B template {choice.name}; this is done once")
            await _build(choice, options)


def _builder(request: SandboxRequest, options: E2bOptions) -> Any:
    if request.dockerfile is not None:
        return start_template(request.dockerfile)
    empty = AsyncTemplate(file_context_path="/nonexistent")
    return empty.from_image(options.base_image) if options.base_image else empty.from_template("base")


async def _build(choice: TemplateChoice, options: E2bOptions) -> None:
    what = f"The E2B template {choice.name} could not be built"
    log: list[str] = []
    params = {**api_params(BUILD_REQUEST_S), "retries": 3}

    async def once() -> None:
        await AsyncTemplate.build(
            choice.builder,
            choice.name,
            cpu_count=options.cpu,
            memory_mb=options.memory_mb,
            on_build_logs=lambda entry: log.append(entry.message),
            **params,
        )

    for attempt in range(1, BUILD_TRIES + 1):
        try:
            with anyio.fail_after(BUILD_S):
                await once()
                return
        except exceptions.BuildException as error:
            said = "\n".join(log[-LOG_LINES:])
            raise SandboxError(f"{what}: {error}\n{said}", mend="mend the environment's Dockerfile") from error
        except Exception as error:
            if attempt == BUILD_TRIES or not is_passing(error):
                raise translate(error, what) from error
        await anyio.sleep(attempt)


async def _is_ready(name: str) -> bool:
    """Whether it is built; waits for a build that is under way somewhere else."""
    what = f"E2B could not be asked for the template {name}"
    if not await call(what, lambda: AsyncTemplate.exists(name, **api_params())):
        return False
    tags = await call(what, lambda: AsyncTemplate.get_tags(name, **api_params()))
    if not tags:
        return False
    newest = max(tags, key=lambda tag: tag.created_at)
    build = BuildInfo(template_id=name, build_id=newest.build_id, name=name, alias=name)
    with anyio.move_on_after(BUILD_S):
        while True:
            found = await call(what, lambda: AsyncTemplate.get_build_status(build, **api_params()))
            if found.status not in UNDER_WAY:
                return found.status is TemplateBuildStatus.READY
            await anyio.sleep(POLL_S)
    return False


@asynccontextmanager
async def _lock(name: str) -> AsyncGenerator[None]:
    """One build of a name at a time on this machine; the lock of a program that dies is free."""
    folder = state_dir() / "e2b"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        with anyio.fail_after(BUILD_S):
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await anyio.sleep(POLL_S)
        yield


def _stem(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "environment"
