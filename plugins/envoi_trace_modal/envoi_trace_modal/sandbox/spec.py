"""The sandbox's descriptor. Light: `envoi-trace plugins` imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envoi_trace_core.protocols import Sandbox, SandboxInfo
from envoi_trace_core.specs import Carried, SandboxRequest, SandboxSpec
from envoi_trace_modal.sandbox.options import ModalOptions


async def _create(request: SandboxRequest, options: ModalOptions) -> Sandbox:
    from envoi_trace_modal.sandbox.calls import sdk

    sdk()
    from envoi_trace_modal.sandbox.creating import create

    return await create(request, options)


async def _attach(sandbox_id: str, options: ModalOptions) -> Sandbox:
    from envoi_trace_modal.sandbox.calls import sdk

    sdk()
    from envoi_trace_modal.sandbox.creating import attach

    return await attach(sandbox_id, options)


async def _list_live(options: ModalOptions) -> Sequence[SandboxInfo]:
    from envoi_trace_modal.sandbox.calls import sdk

    sdk()
    from envoi_trace_modal.sandbox.creating import list_live

    return await list_live(options)


def _max_lifetime_s(options: ModalOptions) -> float | None:
    from envoi_trace_modal.sandbox.limits import max_lifetime_s

    return max_lifetime_s(options)


def _secrets(_options: ModalOptions) -> Mapping[str, str]:
    from envoi_trace_modal.sandbox.credentials import known_secrets

    return known_secrets()


def _carried(_options: ModalOptions) -> Carried:
    from envoi_trace_modal.sandbox.credentials import carried

    return carried()


MODAL_SANDBOX = SandboxSpec(
    name="modal",
    summary="Containers in Modal's cloud",
    options=ModalOptions,
    create=_create,
    attach=_attach,
    list_live=_list_live,
    max_lifetime_s=_max_lifetime_s,
    secrets=_secrets,
    carried=_carried,
)
