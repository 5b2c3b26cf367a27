"""What `--agent-opt` can set for OpenCode. Light: `envoi-trace plugins` imports it."""

from __future__ import annotations

import attrs

from envoi_trace_core.specs import option


@attrs.frozen(kw_only=True)
class OpenCodeOptions:
    """The options of the `opencode` agent."""

    version: str = option("", "which OpenCode is allowed: 1.18.33, or a range such as '>=1.18,<1.19'")
    binary: str = option("", "path of the opencode program in the sandbox; nothing is looked for or installed then")
    auth_file: str = option(
        "", "an OpenCode auth.json on this machine; default the one that `opencode auth login` wrote"
    )
    base_url: str = option("", "the model's server: any that speaks chat completions, such as http://127.0.0.1:8000/v1")
    provider: str = option("", "the provider's id, when --model names the model alone")
    retry_timeout_s: float = option(300.0, "how long OpenCode may go on asking a model that only fails", unit="s")
    start_timeout_s: float = option(120.0, "how long OpenCode's server may take to start", unit="s")
