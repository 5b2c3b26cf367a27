"""What a run would need of this machine and its accounts, looked at without starting anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.errors import EnvoiTraceError
from envoi_trace_core.options import parse_options
from envoi_trace_core.plugins import InstalledPlugin, Plugins
from envoi_trace_core.specs import AgentSpec, SandboxSpec, StorageSpec
from envoi_trace_core.state import state_dir

CHECK_TIMEOUT_S = 45.0
MIN_FREE_BYTES = 2 * 1024**3
MIN_GIT = (2, 30)

Health = Literal["ok", "missing"]


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    health: Health
    detail: str
    mend: str | None = None
    is_needed: bool = True
    """Whether the run that was asked about can't do without it."""


@attrs.frozen(kw_only=True)
class Asked:
    """The run that the doctor is asked about."""

    agent: str
    sandbox: str
    storage: str
    opts: dict[str, tuple[str, ...]]
    """`KEY=VALUE` words by kind: `agent`, `sandbox`, `storage`."""

    def needs(self, plugin: InstalledPlugin) -> bool:
        """Whether the run uses this plugin."""
        return plugin.name == getattr(self, plugin.kind, None)

    def options(self, plugin: InstalledPlugin) -> Any:
        """The plugin's options; those of the run for a plugin that it uses."""
        words = self.opts.get(plugin.kind, ()) if self.needs(plugin) else ()
        return parse_options(plugin.spec.options, words, plugin.kind, plugin.name)


async def examine(asked: Asked, plugins: Plugins) -> Sequence[Finding]:
    """Look at everything, several things at once, each for a bounded time.

    Returns:
        Findings, in a fixed order: this machine, agents, sandboxes, storages, broken plugins.
    """
    checks: list[tuple[str, bool, Callable[[], Awaitable[str]]]] = [
        ("git", True, partial(_in_thread, _git)),
        ("state directory", True, partial(_in_thread, _state_directory)),
    ]
    for plugin in plugins.all():
        match plugin.spec:
            case AgentSpec() | SandboxSpec() | StorageSpec():
                checks.append((f"{plugin.kind} {plugin.name}", asked.needs(plugin), partial(_plugin, asked, plugin)))
            case _:
                pass
    for kind in ("agent", "sandbox", "storage"):
        name = getattr(asked, kind)
        if name not in plugins.names(kind):
            checks.append((f"{kind} {name}", True, partial(_unknown, plugins, kind, name)))
    findings: dict[int, Finding] = {}

    async def check(index: int, what: str, needed: bool, look: Callable[[], Awaitable[str]]) -> None:
        try:
            with anyio.fail_after(CHECK_TIMEOUT_S):
                found = Finding(what=what, health="ok", detail=await look(), is_needed=needed)
        except EnvoiTraceError as error:
            found = Finding(what=what, health="missing", detail=error.message, mend=error.mend, is_needed=needed)
        except TimeoutError:
            detail = f"no answer in {CHECK_TIMEOUT_S:.0f} s"
            found = Finding(what=what, health="missing", detail=detail, is_needed=needed)
        findings[index] = found

    async with anyio.create_task_group() as group:
        for index, (what, needed, look) in enumerate(checks):
            group.start_soon(check, index, what, needed, look)
    broken = [
        Finding(what=f"plugin {problem.plugin}", health="missing", detail=problem.error, is_needed=False)
        for problem in plugins.problems
    ]
    return [*(findings[index] for index in range(len(checks))), *broken]


async def _in_thread(look: Callable[[], str]) -> str:
    return await anyio.to_thread.run_sync(look)


def _git() -> str:
    mend = "apt install git (macOS: xcode-select --install)"
    try:
        said = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvoiTraceError(f"git does not run here: {error}", mend=mend) from error
    numbers = tuple(int(word) for word in said.split()[2].split(".")[:2] if word.isdecimal())
    if numbers < MIN_GIT:
        raise EnvoiTraceError(f"{said.strip()} is too old: 2.30 is needed", mend=mend)
    return said.strip()


def _state_directory() -> str:
    folder = state_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        raise EnvoiTraceError(
            f"{folder} can't be made: {error.strerror}", mend="ENVOI_TRACE_STATE_DIR=DIR names another one"
        ) from error
    if not os.access(folder, os.W_OK):
        raise EnvoiTraceError(f"{folder} can't be written", mend="ENVOI_TRACE_STATE_DIR=DIR names another one")
    if free_bytes < MIN_FREE_BYTES:
        left = f"{free_bytes / 1024**3:.1f} GiB"
        raise EnvoiTraceError(f"{folder} has {left} left", mend="make room, or ENVOI_TRACE_STATE_DIR=DIR elsewhere")
    return f"{folder}, {free_bytes / 1024**3:.0f} GiB free"


async def _plugin(asked: Asked, plugin: InstalledPlugin) -> str:
    options = asked.options(plugin)
    match plugin.spec:
        case AgentSpec() as spec:
            names = sorted(await _in_thread_call(spec.secrets, options))
            if not spec.runs_model:
                return "needs nothing"
            return f"credentials: {', '.join(names)}" if names else "no credentials found or needed"
        case SandboxSpec() as spec:
            spec.secrets(options)
            if spec.examine is not None:
                return await spec.examine(options)
            live = await spec.list_live(options)
            return f"can be reached; {len(live)} live" if live else "can be reached"
        case StorageSpec() as spec:
            storage = await spec.create(options)
            try:
                await storage.stat("trajectories/envoi-trace-doctor")
                return storage.uri("trajectories")
            finally:
                await storage.close()
        case _:
            raise AssertionError(f"nothing is known to look at in a {plugin.kind}")


async def _in_thread_call[T](function: Callable[[Any], T], options: object) -> T:
    return await anyio.to_thread.run_sync(function, options)


async def _unknown(plugins: Plugins, kind: str, name: str) -> str:
    finders: dict[str, Callable[[str], object]] = {
        "agent": plugins.agent, "sandbox": plugins.sandbox, "storage": plugins.storage,
    }  # fmt: skip
    finders[kind](name)
    raise AssertionError(f"{kind} {name} is there after all")
