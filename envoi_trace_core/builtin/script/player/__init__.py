"""The program that plays a script in the sandbox. Stdlib only, Python >= 3.9: it is sent there as one archive.

main.py     reads its configuration and runs turn after turn
play.py     one action after the other: act, checkpoint, remember, tell
state.py    where the script stands, on disk, so that a killed player goes on
inbox.py    prompts and interrupts from stdin; the one place where the player waits
commands.py shell commands, with deadlines
files.py    writes and patches, within the workspace
mcp.py      a small MCP client, for run_tests
guard.py    kills what is left when the player is killed
"""
