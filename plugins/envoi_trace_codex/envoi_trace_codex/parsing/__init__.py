"""Codex's own events as parts: `codex app-server`, `codex exec --json`, and rollout files."""
