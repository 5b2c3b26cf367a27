"""OpenCode's events to parts."""
