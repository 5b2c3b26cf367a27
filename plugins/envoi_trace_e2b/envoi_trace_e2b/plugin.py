"""The hooks of this plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.protocols import Sandbox, SandboxInfo
from envoi_trace_core.specs import SandboxRequest, SandboxSpec
from envoi_trace_e2b.options import E2bOptions

# Options and descriptors are all that `envoi-trace plugins` needs: the rest is imported when it is used.


async def _create(request: SandboxRequest, options: E2bOptions) -> Sandbox:
    from envoi_trace_e2b.creating import create

    return await create(request, options)


async def _attach(sandbox_id: str, options: E2bOptions) -> Sandbox:
    from envoi_trace_e2b.creating import attach

    return await attach(sandbox_id, options)


async def _list_live(options: E2bOptions) -> Sequence[SandboxInfo]:
    from envoi_trace_e2b.creating import list_live

    return await list_live(options)


def _max_lifetime_s(options: E2bOptions) -> float | None:
    from envoi_trace_e2b.limits import max_lifetime_s

    return max_lifetime_s(options)


def _secrets(_options: E2bOptions) -> Mapping[str, str]:
    from envoi_trace_e2b.credentials import known_secrets

    return known_secrets()


E2B_SANDBOX = SandboxSpec(
    name="e2b",
    summary="Virtual machines in E2B's cloud.",
    options=E2bOptions,
    create=_create,
    attach=_attach,
    list_live=_list_live,
    max_lifetime_s=_max_lifetime_s,
    secrets=_secrets,
)


@hookimpl
def envoi_trace_sandboxes() -> Iterable[SandboxSpec[E2bOptions]]:
    """The `e2b` sandbox."""
    yield E2B_SANDBOX
