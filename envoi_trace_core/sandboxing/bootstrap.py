"""A Python inside a sandbox: any one for our small programs, and one with envoi for the harness."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from envoi_trace_core.errors import SandboxError, SandboxTimeoutError
from envoi_trace_core.protocols import CommandResult, Sandbox

LOOK_TIMEOUT_S = 60.0
INSTALL_TIMEOUT_S = 900.0

_NAMES = "python3 python3.13 python3.12 python3.14 python3.11 python3.10 python3.9 python"

# `-I` keeps the workspace and the user's site packages out of the answer.
_FIND = """
check=$1; shift
for python in "$@"; do
    found=$("$python" -I -c "$check" 2>/dev/null) && [ -n "$found" ] && printf '%s\\n' "$found" && exit 0
done
exit 1
"""
_ANY = "import sys; assert sys.version_info >= (3, 9); print(sys.executable)"
_NEW = "import sys; assert sys.version_info >= (3, 12); print(sys.executable)"
_WITH_ENVOI = (
    "import sys, importlib.util; assert sys.version_info >= (3, 12); "
    "assert importlib.util.find_spec('envoi'); print(sys.executable)"
)

# A half-made one is not taken for whole: envoi, which is asked for, comes last.
_UV_VENV = """
set -e
rm -rf "$1"; uv venv -q --no-project --python '>=3.12' "$1" >&2
uv pip install -q --python "$1/bin/python" "$2" >&2
"""
_PIP_VENV = """
set -e
rm -rf "$1"; "$3" -m venv "$1" >&2
"$1/bin/python" -m pip install -q --disable-pip-version-check "$2" >&2
"""


async def find_python(sandbox: Sandbox) -> str:
    """Any Python of at least 3.9 in the sandbox, for programs that use the standard library only.

    Raises:
        SandboxError: There is none.
    """
    found = await _find(sandbox, _ANY, [*_own(sandbox), *_NAMES.split()])
    if found is None:
        raise SandboxError(
            "The sandbox has no Python 3.9 or newer, which the harness's relay needs.",
            mend="install python3 in the sandbox's image",
        )
    return found


async def harness_python(sandbox: Sandbox, *, report: Callable[[str], None]) -> str:
    """A Python of at least 3.12 in the sandbox that can import envoi; one is made when there is none.

    Args:
        sandbox: Where to look.
        report: Told one line before an install, which may take minutes.

    Raises:
        SandboxError: There is none, and none could be made.
    """
    venv = f"{sandbox.support_dir}/python"
    found = await _find(sandbox, _WITH_ENVOI, [*_own(sandbox), f"{venv}/bin/python", *_NAMES.split()])
    if found is not None:
        return found
    report("Installing envoi in the evaluation sandbox.")
    failures = [await _install(sandbox, _UV_VENV, venv)]
    if failures[-1] is not None:
        base = await _find(sandbox, _NEW, _NAMES.split())
        failures.append("no Python 3.12 or newer" if base is None else await _install(sandbox, _PIP_VENV, venv, base))
    found = None if failures[-1] else await _find(sandbox, _WITH_ENVOI, [f"{venv}/bin/python"])
    if found is None:
        tried = "; ".join(
            f"by {tool}: {failure or 'it can not be imported'}"
            for tool, failure in zip(("uv", "pip"), failures, strict=False)
        )
        raise SandboxError(
            f"The sandbox has no Python with envoi, and it could not be installed ({tried}).",
            mend="give the sandbox's image Python 3.12 with envoi-ai, or uv and access to a package index",
        )
    return found


def _own(sandbox: Sandbox) -> list[str]:
    return [sandbox.python] if sandbox.python else []


async def _find(sandbox: Sandbox, check: str, pythons: list[str]) -> str | None:
    result = await _shell(sandbox, _FIND, check, *pythons, timeout_s=LOOK_TIMEOUT_S)
    path = result.stdout.decode(errors="replace").strip().partition("\n")[0]
    return path if result.exit_code == 0 and path.startswith("/") else None


async def _install(sandbox: Sandbox, script: str, *arguments: str) -> str | None:
    """Install envoi; gives what failed, None when nothing did."""
    directory, *others = arguments
    try:
        result = await _shell(sandbox, script, directory, _wanted(), *others, timeout_s=INSTALL_TIMEOUT_S)
    except SandboxTimeoutError:
        return f"not done within {INSTALL_TIMEOUT_S:.0f} s"
    if result.exit_code == 0:
        return None
    said = result.stderr.decode(errors="replace").strip()
    return said[-500:] or f"exit code {result.exit_code}"


def _wanted() -> str:
    """The version that this orchestrator was tested with."""
    try:
        return f"envoi-ai=={version('envoi-ai')}"
    except PackageNotFoundError:
        return "envoi-ai"


async def _shell(sandbox: Sandbox, script: str, *arguments: str, timeout_s: float) -> CommandResult:
    argv = ["sh", "-c", script, "envoi-trace", *arguments]
    return await sandbox.run(argv, timeout_s=timeout_s, cwd="/", max_output_bytes=1024 * 1024)
