"""`python -m envoi_trace_core`: the same as `envoi-trace`."""

from envoi_trace_core.cli.main import main

main()
