"""The `local` sandbox: processes on this machine, under bubblewrap where it works."""
