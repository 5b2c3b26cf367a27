"""What agents that run a program of their own need in common: finding or installing it, credentials."""
