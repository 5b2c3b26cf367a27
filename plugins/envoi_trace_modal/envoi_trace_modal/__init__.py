"""Run the sandboxes of envoi-trace on Modal, and the orchestrator itself."""
