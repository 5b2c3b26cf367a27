"""The `local` launcher: the orchestrator runs in this process, and goes on by itself after a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import LauncherSpec, NoOptions

if TYPE_CHECKING:
    from envoi_trace_core.run.config import RunConfig
    from envoi_trace_core.run.observer import Observer
    from envoi_trace_core.run.outcome import RunOutcome
    from envoi_trace_core.run.stop import StopSignal


@attrs.frozen
class LocalLauncher:
    """Runs a trajectory here, restarting it as `--auto-resume` says."""

    options: NoOptions

    async def launch(self, config: RunConfig, *, observer: Observer, stop: StopSignal, detach: bool) -> RunOutcome:
        """Run to the end.

        Raises:
            UsageError: It was asked to detach: there is nothing here that would outlive this process.
        """
        if detach:
            self.refuse_to_detach()
        from envoi_trace_core.plugins import Plugins
        from envoi_trace_core.run.restarts import run_with_restarts

        return await run_with_restarts(config, Plugins.load(), observer=observer, stop=stop)

    @staticmethod
    def refuse_to_detach() -> None:
        """There is nothing here that would outlive this process.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "--detach needs a launcher that runs the orchestrator elsewhere, and `local` runs it in this process",
            mend="--sandbox modal brings one; or run this command under `nohup` or in tmux",
        )


LOCAL_LAUNCHER = LauncherSpec(
    name="local", summary="The orchestrator runs in this process", options=NoOptions, create=LocalLauncher
)
