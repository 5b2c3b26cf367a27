"""Run the sandboxes of envoi-trace on E2B."""
