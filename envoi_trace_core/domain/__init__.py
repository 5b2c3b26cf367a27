"""The values that everything else speaks of. Nothing here does I/O but reading a task or environment folder."""
