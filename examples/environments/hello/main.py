"""The smallest environment: is there a greeting in greeting.txt?"""

from pathlib import Path

import envoi


@envoi.test
async def greets(submission: envoi.Documents) -> dict[str, int]:
    """greeting.txt says hello."""
    path = Path(submission.dir) / "greeting.txt"
    passed = int(path.is_file() and "hello" in path.read_text(errors="replace").lower())
    return {"passed": passed, "failed": 1 - passed, "total": 1}
