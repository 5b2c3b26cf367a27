"""The environment's folder in the evaluation sandbox, and its setup.sh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.errors import HarnessError, SandboxTimeoutError
from envoi_trace_core.harness.upload import pack_environment
from envoi_trace_core.protocols import CommandResult, Sandbox

if TYPE_CHECKING:
    from envoi_trace_core.domain.environments import Environment

UNPACK_TIMEOUT_S = 600.0
COMMAND_TIMEOUT_S = 60.0
VENV_TIMEOUT_S = 300.0
MAX_LOG_TAIL_BYTES = 4000

_UNPACK = 'rm -rf "$1/environment" "$1/ready" && mkdir -p "$1/environment" && tar -xzf - -C "$1/environment"'

# A virtual environment of its own, so that `pip install` in setup.sh finds a place which the tests' Python reads and
# which is not the Python of whoever started us. It sees all that the harness's Python sees.
_VENV = """
set -e
rm -rf "$1/venv"
if [ "$3" = 1 ] && "$2" -m venv "$1/venv" >/dev/null 2>&1; then :; else "$2" -m venv --without-pip "$1/venv" >&2; fi
site=$("$1/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$2" -c 'import site, sys; print(*[p for p in sys.path if "site-packages" in p or "dist-packages" in p], sep="\\n")' \\
    >"$site/_harness.pth"
"""
_IN_VENV = 'VIRTUAL_ENV=$1 PATH=$1/bin:$PATH; export VIRTUAL_ENV PATH; shift; exec "$@"'
_SETUP = """
cd "$1/environment" || exit
if command -v bash >/dev/null; then shell=bash; else shell=sh; fi
exec "$shell" setup.sh >"$1/setup.log" 2>&1
"""


@attrs.frozen(kw_only=True)
class PreparedEnvironment:
    """An environment that is ready to be started."""

    python: tuple[str, ...]
    """The command that runs its Python; arguments follow."""
    log: str
    """The end of setup.sh's output."""


async def prepare_environment(
    sandbox: Sandbox, environment: Environment, *, python: str, directory: str, timeout_s: float
) -> PreparedEnvironment:
    """Upload an environment's folder to `directory/environment` and run its setup.sh there, unless that was done.

    Raises:
        HarnessError: setup.sh failed, or did not end in time; with the end of its output.
        SandboxError: The sandbox failed.
    """
    has_setup = environment.setup_sh is not None
    in_venv = ("sh", "-c", _IN_VENV, "sh", f"{directory}/venv", f"{directory}/venv/bin/python")
    command = in_venv if has_setup else (python,)
    done = await _shell(sandbox, 'cat "$1/ready" 2>/dev/null || :', directory)
    if done.stdout.decode(errors="replace") == environment.content_hash:
        return PreparedEnvironment(python=command, log=await _log_tail(sandbox, directory))
    archive = await anyio.to_thread.run_sync(pack_environment, environment.directory)
    unpacked = await _shell(sandbox, _UNPACK, directory, stdin=archive, timeout_s=UNPACK_TIMEOUT_S)
    if unpacked.exit_code:
        raise HarnessError(f"The environment can't be unpacked in the sandbox: {_said(unpacked)}")
    if environment.setup_sh is not None:
        text = await anyio.Path(environment.setup_sh).read_text(errors="replace")
        await _make_venv(sandbox, directory, python, with_pip="pip" in text)
        await _run_setup(sandbox, directory, timeout_s)
    await sandbox.write_file(f"{directory}/ready", environment.content_hash.encode())
    return PreparedEnvironment(python=command, log=await _log_tail(sandbox, directory))


async def _make_venv(sandbox: Sandbox, directory: str, python: str, *, with_pip: bool) -> None:
    made = await _shell(sandbox, _VENV, directory, python, "1" if with_pip else "0", timeout_s=VENV_TIMEOUT_S)
    if made.exit_code:
        raise HarnessError(f"A virtual environment for setup.sh can't be made: {_said(made)}")


async def _run_setup(sandbox: Sandbox, directory: str, timeout_s: float) -> None:
    arguments = (f"{directory}/venv", "sh", "-c", _SETUP, "sh", directory)
    try:
        done = await _shell(sandbox, _IN_VENV, *arguments, timeout_s=timeout_s)
    except SandboxTimeoutError as error:
        tail = await _log_tail(sandbox, directory)
        raise HarnessError(f"The environment's setup.sh did not end within {timeout_s:.0f} s:\n{tail}") from error
    if done.exit_code:
        tail = await _log_tail(sandbox, directory)
        raise HarnessError(f"The environment's setup.sh failed with exit code {done.exit_code}:\n{tail or _said(done)}")


async def _log_tail(sandbox: Sandbox, directory: str) -> str:
    script = 'tail -c "$2" "$1/setup.log" 2>/dev/null || :'
    return (await _shell(sandbox, script, directory, str(MAX_LOG_TAIL_BYTES))).stdout.decode(errors="replace").strip()


def _said(result: CommandResult) -> str:
    return result.stderr.decode(errors="replace").strip()[-MAX_LOG_TAIL_BYTES:] or f"exit code {result.exit_code}"


async def _shell(
    sandbox: Sandbox, script: str, *arguments: str, stdin: bytes = b"", timeout_s: float = COMMAND_TIMEOUT_S
) -> CommandResult:
    argv = ["sh", "-c", script, "envoi-trace", *arguments]
    return await sandbox.run(argv, stdin=stdin, timeout_s=timeout_s, cwd="/", max_output_bytes=1024 * 1024)
