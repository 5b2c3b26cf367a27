"""The descriptor of the `local` sandbox; its functions import the rest when they are called."""

from __future__ import annotations

from collections.abc import Sequence

from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.protocols import Sandbox, SandboxInfo
from envoi_trace_core.specs import SandboxRequest, SandboxSpec


async def _create(request: SandboxRequest, options: LocalSandboxOptions) -> Sandbox:
    from envoi_trace_core.builtin.local_sandbox.factory import create

    return await create(request, options)


async def _attach(sandbox_id: str, options: LocalSandboxOptions) -> Sandbox:
    from envoi_trace_core.builtin.local_sandbox.factory import attach

    return await attach(sandbox_id, options)


def _max_lifetime_s(options: LocalSandboxOptions) -> float | None:
    return options.max_lifetime_s or None


async def _list_live(options: LocalSandboxOptions) -> Sequence[SandboxInfo]:
    from envoi_trace_core.builtin.local_sandbox.factory import list_live

    return await list_live(options)


async def _examine(options: LocalSandboxOptions) -> str:
    from envoi_trace_core.builtin.local_sandbox.factory import examine

    return await examine(options)


LOCAL_SANDBOX = SandboxSpec(
    name="local",
    summary="Processes on this machine, kept apart by bubblewrap where it works.",
    options=LocalSandboxOptions,
    create=_create,
    attach=_attach,
    list_live=_list_live,
    max_lifetime_s=_max_lifetime_s,
    examine=_examine,
)
