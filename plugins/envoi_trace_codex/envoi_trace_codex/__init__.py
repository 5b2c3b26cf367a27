"""OpenAI's Codex CLI as an agent of envoi-trace."""
