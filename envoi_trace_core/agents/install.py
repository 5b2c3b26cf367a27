"""The program of an agent in a sandbox: one that is there, else from PyPI or npm into a cache of the sandbox.

The cache is `{support_dir}/agents/`. An install is put in its place by a rename, so that one that was killed
half-way is never taken for a whole one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import attrs

from envoi_trace_core.agents.versions import VersionRule, find_version
from envoi_trace_core.errors import AgentError, SandboxTimeoutError
from envoi_trace_core.protocols import Sandbox

PROBE_TIMEOUT_S = 60.0
INSTALL_TIMEOUT_S = 900.0

Origin = Literal["given", "found", "pip", "npm"]


@attrs.frozen(kw_only=True)
class PipPackage:
    """A distribution on PyPI that carries the program."""

    name: str
    binaries: tuple[str, ...]
    """Where the program is below the folder that was installed into: shell patterns, the first that exists."""
    locate: str = ""
    """Python code that prints the program's path where the distribution is already installed."""


@attrs.frozen(kw_only=True)
class NpmPackage:
    """A package on npm that carries the program."""

    name: str
    binaries: tuple[str, ...]
    """Likewise, below `node_modules`."""


@attrs.frozen(kw_only=True)
class AgentProgram:
    """Where an agent's program comes from."""

    program: str
    """Its name on PATH."""
    tested_version: str
    """What is installed when the user allows any version."""
    minimum_version: str
    """The oldest one that this plugin can drive."""
    pip: PipPackage | None = None
    npm: NpmPackage | None = None
    extra_dirs: tuple[str, ...] = ()
    """Folders to look into after PATH, `$HOME` allowed: where the vendor's own installer puts it."""

    def rule(self, text: str) -> VersionRule:
        """What `--agent-opt version=` allows; empty allows everything from `minimum_version` on.

        Raises:
            UsageError: It is no version.
        """
        return VersionRule.parse(text or f">={self.minimum_version}")

    def version_to_install(self, text: str) -> str | None:
        """The one version to install; None when `version=` is a range of which the newest is wanted."""
        return self.tested_version if not text else self.rule(text).exact


@attrs.frozen(kw_only=True)
class InstalledProgram:
    """A program that was found to run."""

    path: str
    """Absolute, in the sandbox."""
    version: str
    origin: Origin


_PROBE = r"""
probe() {
  [ -x "$1" ] || return 0
  out=$("$1" --version 2>/dev/null </dev/null | head -n 1) || return 0
  printf '%s\t%s\n' "$1" "$out"
}
program=$1 locate=$2 python=$3 dirs=$4 cache=$5
shift 5
found=$(command -v "$program" 2>/dev/null) && probe "$found"
old_ifs=$IFS; IFS=:
for dir in $dirs; do
  case $dir in '$HOME'*) dir=$HOME${dir#'$HOME'};; esac
  probe "$dir/$program"
done
IFS=$old_ifs
if [ -n "$locate" ]; then
  for interpreter in "$python" python3; do
    [ -n "$interpreter" ] && found=$("$interpreter" -c "$locate" 2>/dev/null </dev/null) && probe "$found"
  done
fi
IFS=
for pattern; do for found in $cache/$program-*/$pattern; do probe "$found"; done; done
exit 0
"""

# Any installer will do: uv, a Python with pip, or a Python that can make a virtual environment with one.
_PIP = r"""
set -u
dir=$1 spec=$2 given=$3
part=$dir.$$.part
status=97
trap 'rm -rf "$part" "$part.venv"' EXIT
mkdir -p "${dir%/*}"
install() {
  rm -rf "$part"
  "$@" --quiet --target "$part" "$spec" >&2 || { status=1; return 1; }
  rm -rf "$dir"
  mv "$part" "$dir" && exit 0
}
for python in "$given" python3; do
  command -v "${python:-/}" >/dev/null 2>&1 || continue
  command -v uv >/dev/null 2>&1 && install uv pip install --python "$python"
  "$python" -m pip --version >/dev/null 2>&1 && install "$python" -m pip install
done
for python in "$given" python3; do
  [ "$status" = 97 ] || break
  command -v "${python:-/}" >/dev/null 2>&1 || continue
  "$python" -m venv "$part.venv" >/dev/null 2>&1 && install "$part.venv/bin/python" -m pip install
done
[ "$status" = 97 ] && echo 'there is neither uv nor a Python with pip' >&2
exit "$status"
"""

_NPM = r"""
set -eu
dir=$1 spec=$2
part=$dir.$$.part
trap 'rm -rf "$part"' EXIT
command -v npm >/dev/null 2>&1 || { echo 'there is no npm' >&2; exit 97; }
mkdir -p "$part"
npm install --prefix "$part" --no-audit --no-fund --no-progress --loglevel=error "$spec" >&2
rm -rf "$dir"
mv "$part" "$dir"
"""

_MISSING_TOOL = 97


async def find_or_install(
    sandbox: Sandbox,
    source: AgentProgram,
    *,
    version: str = "",
    binary: str = "",
    report: Callable[[str], None],
) -> InstalledProgram:
    """The agent's program in a sandbox, installed when there is none of an allowed version.

    Args:
        sandbox: Where it must run.
        source: Where it comes from.
        version: What the user allows: empty, one version, or comparisons (`>=0.160,<0.170`).
        binary: A path in the sandbox to use and nothing else; its version must be allowed too.
        report: Told before an install, which may take minutes.

    Raises:
        UsageError: `version` can't be understood.
        AgentError: There is none, and it could not be installed.
        SandboxError: The sandbox failed.
    """
    rule = source.rule(version)
    if binary:
        return await _given(sandbox, source, rule, binary)
    found = await _probe(sandbox, source)
    for program in found:
        if rule.allows(program.version):
            return program
    if found:
        report(f"{found[0].path} is version {found[0].version}, which is not {rule}: another one is installed")
    return await _install(sandbox, source, rule, source.version_to_install(version), report)


async def _given(sandbox: Sandbox, source: AgentProgram, rule: VersionRule, binary: str) -> InstalledProgram:
    probe = await _probe(sandbox, attrs.evolve(source, program=binary, pip=None, npm=None, extra_dirs=()))
    if not probe:
        raise AgentError(f"{binary} does not run in the sandbox", mend=f"give the path of a working {source.program}")
    if not rule.allows(probe[0].version):
        raise AgentError(
            f"{binary} is version {probe[0].version}, which is not {rule}", mend="allow it with --agent-opt version="
        )
    return attrs.evolve(probe[0], origin="given")


async def _probe(sandbox: Sandbox, source: AgentProgram) -> list[InstalledProgram]:
    """Every working program in the places where one may be, in the order in which they are preferred."""
    patterns = (*(source.pip.binaries if source.pip else ()), *_npm_patterns(source))
    arguments = (
        source.program,
        source.pip.locate if source.pip else "",
        sandbox.python or "",
        ":".join(source.extra_dirs),
        _cache(sandbox),
        *patterns,
    )
    result = await sandbox.run(
        ("sh", "-c", _PROBE, "sh", *arguments), timeout_s=PROBE_TIMEOUT_S, max_output_bytes=65536
    )
    found = []
    for line in result.stdout.decode("utf-8", "replace").splitlines():
        path, _tab, said = line.partition("\t")
        version = find_version(said)
        if version is not None and path.startswith("/"):
            found.append(InstalledProgram(path=path, version=version, origin="found"))
    return found


def _npm_patterns(source: AgentProgram) -> tuple[str, ...]:
    return tuple(f"node_modules/{pattern}" for pattern in source.npm.binaries) if source.npm else ()


def _cache(sandbox: Sandbox) -> str:
    return f"{sandbox.support_dir}/agents"


async def _install(
    sandbox: Sandbox, source: AgentProgram, rule: VersionRule, version: str | None, report: Callable[[str], None]
) -> InstalledProgram:
    wanted = f"=={version}" if version else str(rule)
    failures: list[str] = []
    retryable = False
    for origin, name, script, spec, arguments in _ways(sandbox, source, version, rule):
        report(f"installing {source.program} in the sandbox: {spec} ({origin})")
        key = hashlib.sha256(spec.encode()).hexdigest()[:8]
        directory = f"{_cache(sandbox)}/{source.program}-{origin}-{version or key}"
        try:
            result = await sandbox.run(
                ("sh", "-c", script, "sh", directory, spec, *arguments),
                timeout_s=INSTALL_TIMEOUT_S,
                max_output_bytes=1024 * 1024,
            )
        except SandboxTimeoutError:
            failures.append(f"{origin} {name}: took longer than {INSTALL_TIMEOUT_S:g} s")
            retryable = True
            continue
        if result.exit_code == 0:
            installed = [one for one in await _probe(sandbox, source) if one.path.startswith(directory + "/")]
            if installed and rule.allows(installed[0].version):
                return attrs.evolve(installed[0], origin=origin)
            failures.append(f"{origin} {name}: installed, but it does not run in this sandbox")
            continue
        retryable = retryable or result.exit_code != _MISSING_TOOL
        failures.append(f"{origin} {name}: {_last_words(result.stderr)}")
    raise AgentError(
        f"{source.program} {wanted} is not in the sandbox and could not be installed: {'; '.join(failures)}",
        mend=f"put {source.program} on the PATH of the sandbox, or allow another version with --agent-opt version=",
        retryable=retryable,
    )


def _ways(
    sandbox: Sandbox, source: AgentProgram, version: str | None, rule: VersionRule
) -> Sequence[tuple[Literal["pip", "npm"], str, str, str, tuple[str, ...]]]:
    ways: list[tuple[Literal["pip", "npm"], str, str, str, tuple[str, ...]]] = []
    if source.pip is not None:
        spec = source.pip.name + (f"=={version}" if version else str(rule))
        ways.append(("pip", source.pip.name, _PIP, spec, (sandbox.python or "",)))
    if source.npm is not None:
        npm_range = version or " ".join(f"{'=' if sign == '==' else sign}{wanted}" for sign, wanted in rule.conditions)
        ways.append(("npm", source.npm.name, _NPM, f"{source.npm.name}@{npm_range}", ()))
    return ways


def _last_words(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr[-4096:].decode("utf-8", "replace").splitlines() if line.strip()]
    return " ".join(lines[-3:])[:400] or "failed without a word"
