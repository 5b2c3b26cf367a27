"""The image of a sandbox: the environment's, with git, the harness's Python and what the agent requires on top."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import modal  # noqa: TID253

from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import Requirements, SandboxRequest
from envoi_trace_modal.sandbox.options import ModalOptions

HOME = "/opt/envoi-trace"
HARNESS_HOME = f"{HOME}/python"
HARNESS_PYTHON = f"{HARNESS_HOME}/bin/python"
PYTHON = "3.12"

_TOOLS = (
    "command -v git >/dev/null && command -v curl >/dev/null && command -v setsid >/dev/null || "
    "{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
    "git curl ca-certificates util-linux && rm -rf /var/lib/apt/lists/*; }"
)
_UV = (
    "command -v uv >/dev/null || "
    "curl -LsSf https://astral.sh/uv/install.sh | UV_NO_MODIFY_PATH=1 UV_INSTALL_DIR={bin} sh"
)


def image_of(request: SandboxRequest, options: ModalOptions) -> modal.Image:
    """Describe the image; it is built when it is first asked for.

    Modal keeps every layer and knows it again by its text: what changes rarely comes first, so two agents on one
    environment share all but their own layers, and two environments that begin alike share their beginning.

    Raises:
        UsageError: The Dockerfile can't be read.
    """
    if request.dockerfile is not None:
        image = _from_dockerfile(request.dockerfile)
    elif options.image:
        image = modal.Image.from_registry(options.image)
    else:
        image = modal.Image.debian_slim(python_version=PYTHON)
    for step in steps(request.requirements):
        image = image.run_commands(step)
    return image


def steps(requirements: Requirements) -> Iterator[str]:
    """Shell commands, one a layer. The harness's come before the agent's, so that agents share them."""
    yield _TOOLS
    yield _harness_python()
    if requirements.apt:
        packages = _words(requirements.apt)
        yield (
            "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
            f"{packages} && rm -rf /var/lib/apt/lists/*"
        )
    if requirements.pip:
        yield f"{_with_path()} uv pip install --quiet --python {HARNESS_PYTHON} {_words(requirements.pip)}"
    if requirements.npm:
        yield f"npm install --global --no-audit --no-fund {_words(requirements.npm)}"
    for command in requirements.commands:
        # `python3` is the one that has what was asked for with pip.
        yield f"export {_with_path()}; {command}"


def _from_dockerfile(dockerfile: Path) -> modal.Image:
    if not dockerfile.is_file():
        raise UsageError(f"the environment's Dockerfile {dockerfile} can't be read")
    return modal.Image.from_dockerfile(dockerfile, context_dir=dockerfile.parent)


def _harness_python() -> str:
    """A Python of its own, whatever the image has."""
    return (
        f"set -e; {_UV.format(bin=f'{HOME}/bin')}; export {_with_path()} UV_PYTHON_INSTALL_DIR={HOME}/pythons; "
        f"uv venv --quiet --no-project --python {PYTHON} {HARNESS_HOME}; "
        f"uv pip install --quiet --python {HARNESS_PYTHON} {shlex.quote(_envoi())}"
    )


def _with_path() -> str:
    return f"PATH={HARNESS_HOME}/bin:{HOME}/bin:$PATH"


def _envoi() -> str:
    """The version that this orchestrator runs with."""
    try:
        return f"envoi-ai=={version('envoi-ai')}"
    except PackageNotFoundError:
        return "envoi-ai"


def _words(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
