"""The smallest environment: is there a greeting in greeting.txt?"""

import envoi


@envoi.setup
async def submission(documents: envoi.Documents) -> None:
    """Take the agent's workspace; it is the folder in which the tests run."""


@envoi.test
async def greets() -> dict[str, int]:
    """greeting.txt says hello."""
    path = envoi.session_path() / "greeting.txt"
    passed = int(path.is_file() and "hello" in path.read_text(errors="replace").lower())
    return {"passed": passed, "failed": 1 - passed, "total": 1}
