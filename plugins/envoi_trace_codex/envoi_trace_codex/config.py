"""Codex's config.toml, as this plugin writes it.

Keys seen to work with 0.163 and 0.169. The workspace is not trusted: a `.codex/config.toml` that the agent
writes there must not change how it is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import attrs

from envoi_trace_codex.options import CodexOptions
from envoi_trace_core.agents.credentials import SECRET_NAME_PATTERNS
from envoi_trace_core.specs import McpServer

MARK_VARIABLE = "ENVOI_TRACE_CODEX_COMMAND"
"""Stands in the environment of every command of the agent and what they start, and of nothing else."""

MCP_START_TIMEOUT_S = 60

type TomlValue = str | bool | int | float | Sequence[str] | Mapping[str, str]


@attrs.frozen(kw_only=True)
class ConfigInput:
    """What the configuration is made of."""

    options: CodexOptions
    model: str | None
    workspace: str
    hook: str
    """Path of the PostToolUse hook's script."""
    mark: str
    """Value of `MARK_VARIABLE`."""
    mcp_servers: tuple[McpServer, ...]
    signs_in: bool
    """Whether the model's server is to be given credentials."""


def render(given: ConfigInput) -> str:
    """The text of config.toml; it holds no secret."""
    options = given.options
    top: dict[str, TomlValue] = {
        "approval_policy": "never",
        "sandbox_mode": "danger-full-access",
        "check_for_update_on_startup": False,
        "cli_auth_credentials_store": "ephemeral",
        "model_reasoning_summary": "detailed",
        "web_search": options.web_search,
    }
    if given.model:
        top["model"] = given.model
    if options.reasoning_effort:
        top["model_reasoning_effort"] = options.reasoning_effort
    if options.base_url:
        top["model_provider"] = "envoi_trace"
    lines = _pairs(top)
    lines += _table("analytics", {"enabled": False}) + _table("feedback", {"enabled": False})
    # Without the first a refused connection is tried for ever; with apps, a ChatGPT login would bring its connectors.
    lines += _table("features", {"unbounded_connection_retries": False, "apps": False})
    shell: dict[str, TomlValue] = {"exclude": SECRET_NAME_PATTERNS, "set": {MARK_VARIABLE: given.mark}}
    lines += _table("shell_environment_policy", shell)
    lines += ["", "[[hooks.PostToolUse]]", "[[hooks.PostToolUse.hooks]]"]
    lines += _pairs({"type": "command", "command": given.hook, "timeout": int(options.hook_timeout_s)})
    lines += _table(f"projects.{_string(given.workspace)}", {"trust_level": "untrusted"})
    if options.base_url:
        lines += _table("model_providers.envoi_trace", _provider(given))
    for server in given.mcp_servers:
        lines += _table(f"mcp_servers.{_string(server.name)}", _mcp_server(server))
    return "\n".join(lines) + "\n"


def _provider(given: ConfigInput) -> dict[str, TomlValue]:
    """A server of the user's own. `requires_openai_auth` makes the key of account/login/start go there."""
    return {
        "name": "envoi-trace",
        "base_url": given.options.base_url,
        "wire_api": "responses",
        "requires_openai_auth": given.signs_in,
        "supports_websockets": False,
        "request_max_retries": given.options.request_retries,
        "stream_max_retries": given.options.stream_retries,
    }


def _mcp_server(server: McpServer) -> dict[str, TomlValue]:
    return {
        "command": server.command[0],
        "args": server.command[1:],
        "startup_timeout_sec": MCP_START_TIMEOUT_S,
        "tool_timeout_sec": server.tool_timeout_s,
        "required": True,
    }


def _table(name: str, values: Mapping[str, TomlValue]) -> list[str]:
    return ["", f"[{name}]", *_pairs(values)]


def _pairs(values: Mapping[str, TomlValue]) -> list[str]:
    return [f"{name} = {_value(value)}" for name, value in values.items()]


def _value(value: TomlValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_string(name)} = {_string(word)}" for name, word in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_string(word) for word in value) + "]"
    return str(value)


def _string(word: str) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's, but for DEL."""
    return json.dumps(word, ensure_ascii=False).replace("\x7f", "\\u007f")
