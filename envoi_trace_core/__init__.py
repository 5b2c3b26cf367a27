"""Run a coding agent in a sandbox, record every action, keep the repository at each one, and test it."""
