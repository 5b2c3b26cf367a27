"""The launcher's descriptor. Light: `envoi-trace plugins` imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoi_trace_core.specs import LauncherSpec
from envoi_trace_modal.launcher.options import ModalLauncherOptions

if TYPE_CHECKING:
    from envoi_trace_core.protocols import Launcher


def _create(options: ModalLauncherOptions) -> Launcher:
    from envoi_trace_modal.launcher.launcher import ModalLauncher

    return ModalLauncher(options)


MODAL_LAUNCHER = LauncherSpec(
    name="modal",
    summary="The orchestrator runs as a function on Modal",
    options=ModalLauncherOptions,
    create=_create,
)
