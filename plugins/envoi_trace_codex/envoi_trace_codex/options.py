"""What `--agent-opt` can set for Codex. Light: `envoi-trace plugins` imports it."""

from __future__ import annotations

from typing import Literal

import attrs

from envoi_trace_core.specs import option

WebSearch = Literal["disabled", "cached", "live"]


@attrs.frozen(kw_only=True)
class CodexOptions:
    """The options of the `codex` agent."""

    version: str = option("", "which Codex is allowed: 0.163.0, or a range such as '>=0.163,<0.170'")
    binary: str = option("", "path of the codex program in the sandbox; nothing is looked for or installed then")
    auth_file: str = option("", "auth.json of a Codex on this machine; default ~/.codex/auth.json", path=True)
    base_url: str = option("", "a server that speaks the Responses API, such as http://127.0.0.1:8000/v1")
    reasoning_effort: str = option("", "how long the model may think: minimal, low, medium, high, xhigh")
    web_search: WebSearch = option("disabled", "whether the model searches the web: disabled, cached, live")
    request_retries: int = option(3, "how often Codex sends a request again that failed; with base_url only")
    stream_retries: int = option(3, "how often Codex asks again when an answer broke off; with base_url only")
    hook_timeout_s: float = option(300.0, "how long one checkpoint may take", unit="s")
    start_timeout_s: float = option(120.0, "how long Codex and its MCP servers may take to start", unit="s")
