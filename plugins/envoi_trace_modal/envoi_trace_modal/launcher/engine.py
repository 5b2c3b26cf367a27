"""Every call to Modal that the launcher makes: each is bounded, and no error of the SDK gets out."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import attrs

from envoi_trace_core.errors import EnvoiTraceError, SandboxError
from envoi_trace_modal.launcher.failures import translated, unreachable
from envoi_trace_modal.launcher.options import ModalLauncherOptions
from envoi_trace_modal.sandbox.calls import sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

    import modal

FUNCTION = "orchestrate"
FUNCTION_TIMEOUT_S = 24 * 3600
"""The longest that Modal lets a function run."""
FIRST_ANSWER_S = 25.0
CALL_TIMEOUT_S = 60.0
SPAWN_TIMEOUT_S = 600.0
"""The folders are uploaded within."""
DEPLOY_TIMEOUT_S = 1800.0
"""An image is built within."""
SECRET_PREFIX = "envoi-trace-run-"  # noqa: S105 - a name


@attrs.frozen(kw_only=True)
class Engine:
    """One app on Modal, that holds one function."""

    app: str
    options: ModalLauncherOptions

    @property
    def environment(self) -> str | None:
        """Which of the workspace's environments; None for the profile's."""
        return self.options.environment or None

    async def is_deployed(self) -> bool:
        """Whether that very function is there already. The first call: a wrong token or a dead network shows here.

        Raises:
            UsageError: The token is missing or wrong.
            SandboxError: Modal can't be reached.
        """
        sdk()
        import modal

        doing = "looking for the app"
        with _bounded(FIRST_ANSWER_S, doing), translated(doing):
            try:
                await self._function().hydrate.aio()
            except modal.exception.NotFoundError:
                return False
        return True

    async def deploy(self, image: modal.Image, body: Callable[..., str]) -> None:
        """Build the image where it is not built yet, and put the function there.

        Raises:
            SandboxError: The image can't be built, or Modal failed.
        """
        import modal

        options, doing = self.options, "deploying the app"
        with _bounded(DEPLOY_TIMEOUT_S, doing), translated(doing):
            app = modal.App(self.app, include_source=False)
            app.function(
                name=FUNCTION,
                image=image,
                serialized=True,
                timeout=FUNCTION_TIMEOUT_S,
                nonpreemptible=not options.preemptible,
                single_use_containers=True,
                retries=modal.Retries(max_retries=options.max_retries, initial_delay=10.0, backoff_coefficient=2.0),
                cpu=options.cpu,
                memory=options.memory_mib,
                region=options.region or None,
                include_source=False,
            )(body)
            await app.deploy.aio(name=self.app, environment_name=self.environment)

    @asynccontextmanager
    async def secret(self, variables: Mapping[str, str], *, lives_s: float) -> AsyncIterator[str]:
        """A secret of this run's own; taken away again when the block fails, and the function's business otherwise."""
        name = f"{SECRET_PREFIX}{secrets.token_hex(8)}-{int(time.time() + lives_s)}"
        try:
            doing = "storing the run's credentials"
            # Shielded: a secret whose creation was cancelled could still come into being after it was removed.
            with _bounded(CALL_TIMEOUT_S, doing, shield=True), translated(doing):
                import modal

                await modal.Secret.objects.create.aio(name, dict(variables), environment_name=self.environment)
            yield name
        except BaseException:
            await self.delete_secret(name)
            raise

    async def delete_secret(self, name: str) -> bool:
        """Take a secret away, whatever happens around; gives whether it is gone."""
        import modal

        with anyio.move_on_after(CALL_TIMEOUT_S, shield=True):
            try:
                with translated("removing the run's credentials"):
                    await modal.Secret.objects.delete.aio(name, allow_missing=True, environment_name=self.environment)
            except Exception:  # noqa: BLE001 - the error around it is the one to tell
                return False
            return True
        return False

    async def delete_left_secrets(self) -> None:
        """Those of runs that can't run any more, because whoever had to take them away was killed."""
        import modal

        doing = "looking for credentials of runs that are over"
        with _bounded(CALL_TIMEOUT_S, doing), translated(doing):
            found = await modal.Secret.objects.list.aio(environment_name=self.options.environment)
        for secret in found:
            if secret.name and is_over(secret.name, time.time()):
                await self.delete_secret(secret.name)

    async def spawn(self, secret: str | None, *words: str | bytes) -> str:
        """Start the function, and give the call's id. When it is cancelled, so is the call.

        Raises:
            SandboxError: Modal failed.
        """
        import modal

        function = self._function()
        if secret is not None:
            named = modal.Secret.from_name(secret, environment_name=self.environment)
            function = function.with_options(secrets=[named])
        doing = "starting the run"
        # Shielded: a call whose id nobody knows could not be ended.
        with _bounded(SPAWN_TIMEOUT_S, doing, shield=True), translated(doing):
            call_id = str((await function.spawn.aio(*words)).object_id)
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.cancel(call_id)
            raise
        return call_id

    async def result(self, call_id: str, *, timeout_s: float) -> str | None:
        """What the function gave; None while it runs.

        Raises:
            SandboxError: It failed, was cancelled, or Modal can't be reached (`retryable`).
            EnvoiTraceError: The function itself raised it.
        """
        import modal

        call = modal.FunctionCall.from_id(call_id)
        with translated("asking for the run's end"):
            try:
                return str(await call.get.aio(timeout=timeout_s))
            except (modal.exception.FunctionTimeoutError, modal.exception.OutputExpiredError) as error:
                raise SandboxError(f"the run's function is over: {error or type(error).__name__}") from error
            except (modal.exception.RemoteError, modal.exception.InternalFailure) as error:
                raise SandboxError(f"the run's function failed: {str(error)[:500]}") from error
            except TimeoutError:  # also modal's own
                return None
            except modal.exception.TimeoutError:
                return None
            except modal.exception.InputCancellation as error:
                raise SandboxError("the run's function was cancelled") from error
            except (EnvoiTraceError, modal.exception.Error, OSError):
                raise  # the function's own, or Modal's
            except Exception as error:  # of any class: the function raised it there
                raise SandboxError(f"the run's function failed: {type(error).__name__}: {str(error)[:500]}") from error

    async def cancel(self, call_id: str) -> None:
        """End the call and its container.

        Raises:
            SandboxError: Modal failed.
        """
        import modal

        doing = "cancelling the run"
        with _bounded(CALL_TIMEOUT_S, doing), translated(doing):
            await modal.FunctionCall.from_id(call_id).cancel.aio(terminate_containers=True)

    def _function(self) -> modal.Function[..., str, str]:
        import modal

        return modal.Function.from_name(self.app, FUNCTION, environment_name=self.environment)


def is_over(secret_name: str, now: float) -> bool:
    """Whether a secret is one of ours, and its run can't run any more."""
    if not secret_name.startswith(SECRET_PREFIX):
        return False
    ends = secret_name.rpartition("-")[2]
    return ends.isdigit() and int(ends) < now


@contextmanager
def _bounded(timeout_s: float, doing: str, *, shield: bool = False) -> Iterator[None]:
    with anyio.move_on_after(timeout_s, shield=shield) as scope:
        yield
    if scope.cancelled_caught:
        raise unreachable(doing, timeout_s)
