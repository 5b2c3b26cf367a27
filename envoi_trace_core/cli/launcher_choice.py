"""Which launcher: `local`, unless the user asks for something that only a remote one can do."""

from __future__ import annotations

from typing import Any

import attrs

from envoi_trace_core.builtin.local_launcher import LOCAL_LAUNCHER
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.errors import UsageError
from envoi_trace_core.options import parse_options
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.protocols import Launcher
from envoi_trace_core.specs import LauncherSpec

LOCAL = LOCAL_LAUNCHER.name
PREEMPTIBLE = "preemptible"
"""A launcher that can run a preemptible orchestrator has an option of that name."""


def choose_launcher(plugins: Plugins, options: RunOptions) -> Launcher:
    """The launcher that the user named; without a name, the remote one for `--detach` and `--preemptible`.

    Raises:
        UsageError: There is no such launcher, several could be meant, or an option is wrong.
        PluginError: Its plugin is broken.
    """
    spec = plugins.launcher(options.launcher) if options.launcher is not None else _default(plugins, options)
    words = (*_preemptible(spec, options), *options.launcher_opt)
    return spec.create(parse_options(spec.options, words, "launcher", spec.name))


def _default(plugins: Plugins, options: RunOptions) -> LauncherSpec[Any]:
    if not (options.detach or options.preemptible):
        return plugins.launcher(LOCAL)
    remote = [name for name in plugins.names("launcher") if name != LOCAL]
    if len(remote) > 1:
        raise UsageError(
            f"several launchers can run the orchestrator elsewhere: {', '.join(sorted(remote))}",
            mend=f"--launcher {sorted(remote)[0]}",
        )
    return plugins.launcher(remote[0] if remote else LOCAL)


def _preemptible(spec: LauncherSpec[Any], options: RunOptions) -> tuple[str, ...]:
    if not options.preemptible:
        return ()
    if PREEMPTIBLE not in {field.name for field in attrs.fields(spec.options)}:
        raise UsageError(
            f"--preemptible is of an orchestrator that runs elsewhere, and the launcher is {spec.name!r}",
            mend='leave it away, or pip install "envoi-trace[modal]"',
        )
    return (f"{PREEMPTIBLE}=true",)
