"""Where the codex program comes from."""

from __future__ import annotations

from envoi_trace_codex.options import CodexOptions
from envoi_trace_core.agents.install import AgentProgram, NpmPackage, PipPackage
from envoi_trace_core.specs import Requirements

LOCATE = "import codex_cli_bin; print(codex_cli_bin.bundled_codex_path())"

CODEX = AgentProgram(
    program="codex",
    tested_version="0.163.0",
    minimum_version="0.160",
    pip=PipPackage(name="openai-codex-cli-bin", binaries=("codex_cli_bin/bin/codex",), locate=LOCATE),
    npm=NpmPackage(
        name="@openai/codex",
        binaries=("@openai/codex-*/vendor/*/bin/codex", "@openai/codex/vendor/*/bin/codex", ".bin/codex"),
    ),
)
"""The binary needs its `codex-code-mode-host` beside it, so it is run where its package put it."""


def requirements(options: CodexOptions) -> Requirements:
    """What an image builder installs, so that nothing is left to install in the sandbox."""
    version = CODEX.version_to_install(options.version)
    spec = f"openai-codex-cli-bin{f'=={version}' if version else CODEX.rule(options.version)}"
    link = f"path=$(python3 -c '{LOCATE}' 2>/dev/null) && ln -sf \"$path\" /usr/local/bin/codex || true"
    return Requirements(pip=(spec,), commands=(link,))
