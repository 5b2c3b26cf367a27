"""The hooks of this plugin."""

from __future__ import annotations

from collections.abc import Iterable

from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.specs import LauncherSpec, SandboxSpec
from envoi_trace_modal.launcher.options import ModalLauncherOptions
from envoi_trace_modal.launcher.spec import MODAL_LAUNCHER
from envoi_trace_modal.sandbox.options import ModalOptions
from envoi_trace_modal.sandbox.spec import MODAL_SANDBOX

# Options and descriptors are all that `envoi-trace plugins` needs: the rest is imported when it is used.


@hookimpl
def envoi_trace_sandboxes() -> Iterable[SandboxSpec[ModalOptions]]:
    """The `modal` sandbox."""
    yield MODAL_SANDBOX


@hookimpl
def envoi_trace_launchers() -> Iterable[LauncherSpec[ModalLauncherOptions]]:
    """The `modal` launcher."""
    yield MODAL_LAUNCHER
