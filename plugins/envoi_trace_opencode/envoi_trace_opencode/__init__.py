"""The `opencode` agent of envoi-trace: OpenCode's own server, in any sandbox."""
