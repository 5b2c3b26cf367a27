"""The kinds of events, parts and tools that OpenCode 1.18 has (its OpenAPI document, `GET /doc`)."""

from __future__ import annotations

SILENT_EVENTS = frozenset(
    {
        "catalog.updated",
        "command.executed",
        "file.edited",
        "file.watcher.updated",
        "global.disposed",
        "installation.update-available",
        "installation.updated",
        "integration.connection.updated",
        "integration.updated",
        "lsp.updated",
        "mcp.tools.changed",
        "message.part.removed",
        "message.removed",
        "models-dev.refreshed",
        "permission.asked",
        "permission.replied",
        "plugin.added",
        "project.directories.updated",
        "project.updated",
        "reference.updated",
        "server.connected",
        "server.heartbeat",
        "server.instance.disposed",
        "session.compacted",
        "session.created",
        "session.deleted",
        "session.diff",
        "session.error",
        "session.idle",
        "session.status",
        "session.updated",
        "todo.updated",
        "vcs.branch.updated",
    }
)
"""Understood, and no part."""

SILENT_FAMILIES = ("permission.v2.", "pty.", "question.", "session.next.", "tui.", "workspace.", "worktree.", "envoi.")
"""Beginnings of further ones. `session.next` says a second time what the messages say; `envoi` is our driver."""

SILENT_PARTS = frozenset({"step-start", "patch", "snapshot", "file", "agent", "subtask", "retry", "compaction"})
"""`patch` names the files that one response changed, in a git workspace only: the checkpoints tell it exactly."""

FILE_TOOLS = frozenset({"write", "edit", "multiedit", "apply_patch", "patch"})
"""Tools whose good end is a `patch` part."""

READING_TOOLS = frozenset(
    {
        "codesearch",
        "glob",
        "grep",
        "invalid",
        "list",
        "ls",
        "question",
        "read",
        "skill",
        "task",
        "todoread",
        "todowrite",
        "webfetch",
        "websearch",
    }
)
"""Tools that leave the workspace alone. A subagent's tools (`task`) are parts of their own."""
