"""Template builds of the fake.

COPY, ENV, WORKDIR and USER are applied, and RUN is run, in a machine whose folder new sandboxes are copied from. The
system's own folders are the host's, read-only: what would install something there is not run. It is recorded, and
where the plugin's recipe would have made its Python the fake links the one that runs the tests, which has the same
packages. A template without the recipe has no such Python.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import sys
import tarfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from e2b_fake.asgi import Exchange
from e2b_fake.machine import Machine
from e2b_fake.state import State, Template

HARNESS_PYTHON = "/opt/envoi-trace/python"
INSTALLER = re.compile(r"\b(apt-get|apk|pip3?|npm|uv) (-\S+ )*(install|update|add)\b")


@attrs.define(kw_only=True)
class Build:
    """One build of a template."""

    id: str
    name: str
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    status: str = "waiting"
    reason: str = ""
    steps: list[dict[str, Any]] = attrs.field(factory=list)
    source: str = ""
    """The image or template it starts from."""
    not_run: list[str] = attrs.field(factory=list)
    """Commands of installers."""
    task: asyncio.Task[None] | None = None


async def serve(state: State, exchange: Exchange, words: list[str], body: dict[str, Any]) -> None:
    """Answer a request below /templates."""
    match exchange.method, words:
        case "POST", []:
            build = Build(id=str(uuid.uuid4()), name=body["name"])
            state.builds[build.id] = build
            names = {"names": [build.name], "aliases": [build.name], "tags": body.get("tags") or []}
            answer = {"templateID": build.name, "buildID": build.id, "public": False, **names}
            return await exchange.reply(202, answer)
        case "GET", ["aliases", name]:
            known = name in state.templates or any(build.name == name for build in state.builds.values())
            if not known:
                return await exchange.reply(404, {"code": 404, "message": "no such template"})
            return await exchange.reply(200, {"templateID": name, "public": False})
        case "GET", [name, "tags"]:
            found = [build for build in state.builds.values() if build.name == name]
            tags = [{"tag": "default", "buildID": b.id, "createdAt": b.created_at.isoformat()} for b in found[-1:]]
            return await exchange.reply(200, tags)
        case "GET", [_name, "files", file_hash]:
            present = file_hash in state.uploads
            return await exchange.reply(201, {"present": present, "url": f"{state.url}/upload/{file_hash}"})
        case "POST", [_name, "builds", build_id]:
            build = state.builds[build_id]
            build.steps, build.source = body["steps"], body.get("fromImage") or body.get("fromTemplate") or ""
            build.status = "building"
            build.task = asyncio.create_task(run(state, build))
            return await exchange.reply(202)
        case "GET", [name, "builds", build_id, "status"]:
            return await exchange.reply(200, status(state.builds[build_id], exchange))
        case "DELETE", [name]:
            return await exchange.reply(204 if state.templates.pop(name, None) else 404)
    return await exchange.reply(404, {"code": 404, "message": exchange.path})


def status(build: Build, exchange: Exchange) -> dict[str, Any]:
    query = exchange.scope["query_string"].decode()
    offset = int(found[1]) if (found := re.search(r"logsOffset=(\d+)", query)) else 0
    entries = [
        {"timestamp": build.created_at.isoformat(), "message": f"{step['type']} {step['args']}", "level": "info"}
        for step in build.steps
    ]
    answer = {"logs": [], "logEntries": entries[offset:], "templateID": build.name, "buildID": build.id}
    reason = {"reason": {"message": build.reason}} if build.reason else {}
    return {**answer, "status": build.status, **reason}


async def run(state: State, build: Build) -> None:
    """Do the steps."""
    template = Template(name=build.name, folder=state.root / f"template-{uuid.uuid4().hex[:8]}")
    assert template.folder is not None
    template.folder.mkdir()
    machine = Machine(template.folder, {})
    await machine.start()
    try:
        for step in build.steps:
            await do(state, build, template, machine, step)
    except RuntimeError as error:
        build.reason, build.status = str(error), "error"
    else:
        # Its first process ends, its folder stays.
        kept = template.folder.with_suffix(".kept")
        await asyncio.to_thread(shutil.copytree, template.folder, kept, symlinks=True)
        template.folder = kept
        state.templates[build.name] = template
        build.status = "ready"
    machine.kill()


async def do(state: State, build: Build, template: Template, machine: Machine, step: dict[str, Any]) -> None:
    kind, args = step["type"], step["args"]
    if kind == "ENV":
        template.env |= dict(zip(args[::2], args[1::2], strict=True))
    elif kind == "USER":
        template.user = args[0]
    elif kind == "WORKDIR":
        template.workdir = args[0]
        (machine.root / args[0].strip("/")).mkdir(parents=True, exist_ok=True)
    elif kind == "COPY":
        await copy(state, template, machine, step)
    elif kind == "RUN":
        await run_command(build, template, machine, args[0])


async def copy(state: State, template: Template, machine: Machine, step: dict[str, Any]) -> None:
    source, target = step["args"][:2]
    data = state.uploads[step["filesHash"]]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        is_folder = any(member.isdir() for member in archive) or len(archive.getnames()) > 1
    path = target if target.startswith("/") else f"{template.workdir}/{target}"
    file = machine.root / f"upload-{uuid.uuid4().hex}"
    file.write_bytes(data)
    fd = os.open(file, os.O_RDONLY)
    try:
        await machine.call("unpack", [fd], source=source, target=path, is_folder=is_folder)
    finally:
        os.close(fd)
        file.unlink()


async def run_command(build: Build, template: Template, machine: Machine, command: str) -> None:
    if HARNESS_PYTHON in command and " venv " in command:
        link = machine.root / HARNESS_PYTHON[1:]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(sys.prefix))
        build.not_run.append(command)
        return
    if INSTALLER.search(command):
        build.not_run.append(command)
        return
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    argv = ["/bin/sh", "-c", command]
    _pid, exited = await machine.spawn(argv, cwd=template.workdir, env=template.env, fds=[null, write, write])
    os.close(null)
    os.close(write)
    code = await exited
    with os.fdopen(read, "rb") as output:
        os.set_blocking(output.fileno(), False)
        said = output.read() or b""
    if code:
        raise RuntimeError(f"command failed with exit code {code}: {command}: {said.decode(errors='replace')[-500:]}")
