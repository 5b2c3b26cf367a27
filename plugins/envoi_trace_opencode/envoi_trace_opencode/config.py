"""OpenCode's configuration, as this plugin writes it. Keys seen to work with 1.18.33."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoi_trace_core.specs import McpServer
from envoi_trace_opencode.providers import ModelChoice

JsonObject = dict[str, Any]

PERMISSIONS: Mapping[str, str] = {"*": "allow", "external_directory": "allow", "doom_loop": "allow", "question": "deny"}
"""Nothing waits for a person; the sandbox is what holds the agent."""


def render(choice: ModelChoice, plugin_path: str, mcp_servers: tuple[McpServer, ...]) -> JsonObject:
    """The configuration without the provider's URL, which only the driver knows. It holds no secret."""
    model = f"{choice.provider}/{choice.model}"
    provider: JsonObject = {"options": {}, "models": {choice.model: {}}}
    if choice.is_custom:
        provider |= {"npm": "@ai-sdk/openai-compatible", "name": choice.provider}
    return {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,  # OpenCode's own undo; the checkpoints are ours
        "lsp": False,
        "formatter": False,
        "model": model,
        "small_model": model,
        "enabled_providers": [choice.provider],
        "permission": dict(PERMISSIONS),
        "plugin": [f"file://{plugin_path}"],
        "provider": {choice.provider: provider},
        "mcp": {server.name: _mcp_server(server) for server in mcp_servers},
    }


def _mcp_server(server: McpServer) -> JsonObject:
    return {
        "type": "local",
        "command": list(server.command),
        "enabled": True,
        "timeout": int(server.tool_timeout_s * 1000),
        "environment": {"OPENCODE_SERVER_PASSWORD": "", "OPENCODE_CONFIG_CONTENT": ""},
    }
