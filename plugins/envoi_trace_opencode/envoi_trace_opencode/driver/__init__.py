"""Runs inside the sandbox, on its own: the standard library of Python >= 3.9 and nothing else."""
