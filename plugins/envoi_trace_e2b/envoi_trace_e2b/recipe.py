"""What every template gets besides the Dockerfile: git, the harness's Python, what the agent requires."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from envoi_trace_core.specs import Requirements

VERSION = 1
"""Goes into the template's name: a change below makes templates be built anew."""
HOME = "/opt/envoi-trace"
HARNESS_HOME = f"{HOME}/python"
HARNESS_PYTHON = f"{HARNESS_HOME}/bin/python"

_TOOLS = (
    "command -v git >/dev/null && command -v curl >/dev/null && command -v setsid >/dev/null || "
    "{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
    "git curl ca-certificates util-linux && rm -rf /var/lib/apt/lists/*; }"
)
_UV = (
    "command -v uv >/dev/null || "
    "curl -LsSf https://astral.sh/uv/install.sh | UV_NO_MODIFY_PATH=1 UV_INSTALL_DIR={bin} sh"
)


def steps(requirements: Requirements) -> Iterator[str]:
    """Shell commands, for root. The harness's comes before the agent's, so that agents share its layer."""
    yield _TOOLS
    yield _harness_python()
    if requirements.apt:
        packages = _words(requirements.apt)
        yield f"apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y {packages}"
    if requirements.pip:
        yield f"{_with_path()}uv pip install --quiet --python {HARNESS_PYTHON} {_words(requirements.pip)}"
    if requirements.npm:
        yield f"npm install --global --no-audit --no-fund {_words(requirements.npm)}"
    for command in requirements.commands:
        # `python3` is the one that has what was asked for with pip.
        yield f"export {_with_path().strip()}; {command}"


def _harness_python() -> str:
    """A Python of its own that all users can read, whatever the image has."""
    return (
        f"set -e; {_UV.format(bin=f'{HOME}/bin')}; export {_with_path()}UV_PYTHON_INSTALL_DIR={HOME}/pythons; "
        f"uv venv --quiet --no-project --python 3.12 {HARNESS_HOME}; "
        f"uv pip install --quiet --python {HARNESS_PYTHON} {shlex.quote(_envoi())}"
    )


def _with_path() -> str:
    return f"PATH={HARNESS_HOME}/bin:{HOME}/bin:$PATH "


def _envoi() -> str:
    """The version that this orchestrator runs with."""
    try:
        return f"envoi-ai=={version('envoi-ai')}"
    except PackageNotFoundError:
        return "envoi-ai"


def _words(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
