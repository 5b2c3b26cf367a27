"""Make a sandbox on E2B, find it again, list what is left."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
from e2b import AsyncSandbox  # noqa: TID253
from e2b.sandbox.sandbox_api import SandboxLifecycle  # noqa: TID253

from envoi_trace_core.errors import EnvoiTraceError, SandboxError, SandboxLostError, UsageError
from envoi_trace_core.protocols import SandboxInfo
from envoi_trace_core.specs import SandboxRequest
from envoi_trace_e2b.calls import api_params, call, whole_seconds
from envoi_trace_e2b.capacity import CREATE_S, RefusedError, Waiting, refusable, resume
from envoi_trace_e2b.envd import Ended, Envd
from envoi_trace_e2b.limits import max_lifetime_s
from envoi_trace_e2b.options import E2bOptions
from envoi_trace_e2b.records import Listed, Record, find_by_name, list_ours
from envoi_trace_e2b.sandbox import SUPPORT, WORKSPACE, E2bSandbox, end_sandbox
from envoi_trace_e2b.templates import TemplateChoice, choose_template, ensure_template

CLEAN_UP_S = 30.0
PREPARE_S = 60.0
ATTACHED_LIFE_S = 3600.0

# The user of a template's commands has a home, but none of these.
_PREPARE = 'mkdir -p "$2" "$3" && chown "$1" "$2" "$3" && chmod 700 "$3"'


async def create(request: SandboxRequest, options: E2bOptions) -> E2bSandbox:
    """Make a sandbox; when one of that name lives, running or paused, that one.

    Raises:
        UsageError: The Dockerfile can't be built on E2B, or the key is missing or refused.
        SandboxError: E2B can't be reached, has no room for too long, or the template can't be built.
    """
    choice = choose_template(request, options)
    waiting = Waiting(request, options)
    found = await find_by_name(request.name)
    if found is not None:
        try:
            return await _prepared(await waiting.until(lambda: _take(found, request.lifetime_s, options)))
        except SandboxLostError:
            pass  # it ended meanwhile
    await ensure_template(choice, request, options)
    return await _prepared(await waiting.until(lambda: _make(request, options, choice)))


async def attach(sandbox_id: str, options: E2bOptions) -> E2bSandbox:
    """A sandbox by its id; a paused one goes on.

    Raises:
        SandboxLostError: It is gone.
        SandboxError: It is paused, and E2B has no room for it.
    """
    info = await call(
        f"E2B could not be asked for the sandbox {sandbox_id}",
        lambda: AsyncSandbox.get_info(sandbox_id, **api_params()),
        sandbox_id=sandbox_id,
    )
    record = Record.parse(info.metadata)
    if record is None:
        raise SandboxLostError(f"The E2B sandbox {sandbox_id} is none of envoi-trace.")
    try:
        return await _take(Listed(info=info, record=record), ATTACHED_LIFE_S, options)
    except RefusedError as error:
        message = f"The E2B sandbox {sandbox_id} is paused, and there is no room to resume it: {error.words}"
        raise SandboxError(message, retryable=True) from error


async def list_live(_options: E2bOptions) -> Sequence[SandboxInfo]:
    """Every sandbox of ours on this account, running or paused."""
    return [
        SandboxInfo(
            id=listed.info.sandbox_id,
            trajectory_id=listed.record.trajectory_id,
            role=listed.record.role,
            created_at=datetime.fromtimestamp(listed.record.asked_at, UTC),
        )
        for listed in await list_ours()
    ]


async def _take(found: Listed, lifetime_s: float, options: E2bOptions) -> E2bSandbox:
    """One that lives."""
    now = datetime.now(UTC)
    sandbox = await resume(found.info.sandbox_id, lifetime_s, options)
    began = found.info.started_at if found.is_running else now
    return E2bSandbox(
        sandbox=sandbox,
        ends_at=began + timedelta(seconds=max_lifetime_s(options)),
        python=found.record.python,
    )


async def _make(request: SandboxRequest, options: E2bOptions, choice: TemplateChoice) -> E2bSandbox:
    """A new one; a cancel that comes meanwhile leaves none."""
    record = Record.of(request, choice.python)
    longest_s = max_lifetime_s(options)
    asked_at = datetime.now(UTC)
    key = str(uuid.uuid4())  # a lost answer is asked for again under the same key

    async def once() -> AsyncSandbox:
        # E2B makes it also when nobody waits for the answer any more: a cancel waits, and then ends what was made.
        with anyio.CancelScope(shield=True), anyio.fail_after(CREATE_S):
            made = await AsyncSandbox.create(
                choice.name,
                timeout=whole_seconds(min(request.lifetime_s, longest_s)),
                metadata=record.metadata(),
                allow_internet_access=options.internet,
                lifecycle=SandboxLifecycle(on_timeout=options.on_timeout),
                idempotency_key=key,
                **api_params(CREATE_S),
            )
        await anyio.lowlevel.checkpoint()
        return made

    try:
        sandbox = await refusable(f"E2B made no sandbox of the template {choice.name}", once)
    except RefusedError:
        raise
    except SandboxError as error:
        await _forget(request.name)
        if "404" in error.message and choice.builder is None:
            raise UsageError(
                f"E2B has no template {choice.name!r} that this key may use",
                mend="e2b template list shows yours; without template= one is built",
            ) from error
        raise
    except BaseException:
        await _forget(request.name)
        raise
    return E2bSandbox(sandbox=sandbox, ends_at=asked_at + timedelta(seconds=longest_s), python=choice.python)


async def _forget(name: str) -> None:
    """End what a create that was given up may have made all the same."""
    with anyio.move_on_after(CLEAN_UP_S, shield=True):
        with suppress(EnvoiTraceError):  # `envoi-trace cleanup` finds it; the first error is the one that counts
            found = await find_by_name(name)
            if found is not None:
                await end_sandbox(found.info.sandbox_id)


async def _prepared(sandbox: E2bSandbox) -> E2bSandbox:
    """Make the folders that commands work in, for the user that they run as."""
    try:
        await _prepare(sandbox)
    except BaseException:
        with anyio.move_on_after(CLEAN_UP_S, shield=True):
            with suppress(EnvoiTraceError):
                await sandbox.close()
        raise
    return sandbox


async def _prepare(sandbox: E2bSandbox) -> None:
    user = await sandbox.run(["id", "-u"], timeout_s=PREPARE_S, cwd="/")
    argv = ["sh", "-c", _PREPARE, "sh", user.stdout.decode(errors="replace").strip(), WORKSPACE, SUPPORT]
    with anyio.move_on_after(PREPARE_S):
        async with Envd(sandbox.sandbox).start(argv, env={}, stdin=False, as_root=True) as process:
            while not isinstance(event := await process.next(), Ended):
                pass
            if event.exit_code == 0:
                return
    raise SandboxError(f"{WORKSPACE} and {SUPPORT} could not be made in the E2B sandbox {sandbox.id}.")
