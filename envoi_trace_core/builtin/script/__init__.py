"""The `script` agent: plays a file of actions the way a coding agent would, without a model.

actions.py  reads and checks script.jsonl, on the orchestrator's side
player/     the program in the sandbox; stdlib only, Python >= 3.9
session.py  drives the program: turns, interrupts, resumes
parser.py   its native events to parts
spec.py     what the plugin registers
"""
