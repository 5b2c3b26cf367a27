"""Where the opencode program comes from."""

from __future__ import annotations

from envoi_trace_core.agents.install import AgentProgram, NpmPackage
from envoi_trace_core.specs import Requirements
from envoi_trace_opencode.options import OpenCodeOptions

OPENCODE = AgentProgram(
    program="opencode",
    tested_version="1.18.33",
    minimum_version="1.18",
    npm=NpmPackage(name="opencode-ai", binaries=("opencode-*/bin/opencode", "opencode-ai/bin/.opencode")),
    extra_dirs=("$HOME/.opencode/bin",),
)
"""npm installs, beside the package, the one for this platform; the program in that needs no Node."""


def requirements(options: OpenCodeOptions) -> Requirements:
    """What an image builder installs, so that nothing is left to install in the sandbox."""
    version = OPENCODE.version_to_install(options.version)
    return Requirements(npm=(f"{OPENCODE.program}-ai{f'@{version}' if version else ''}",))
