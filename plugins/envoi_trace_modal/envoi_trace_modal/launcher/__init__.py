"""The orchestrator itself as a function on Modal.

launcher     what runs here: checks, deploys, starts, follows, stops
body         what runs there
engine       every call to Modal that the launcher makes
image        the function's image: the same versions as here
distributions  which versions those are, and what of them is on no index
folders      the task's and the environment's folder on their way
credentials  what the plugins need there, as one secret of the run's own
"""
