"""What a checkpoint costs: the agent's hook in the sandbox, and the orchestrator's part, in ms each.

python benchmarks/checkpoint.py [FILES ...]     # default: 100 10000
"""

# ruff: noqa: ASYNC221, ASYNC240

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import cast

import anyio

from envoi_trace_core.protocols import CommandResult, Sandbox
from envoi_trace_core.repo.repository import Repository

ROUNDS = 30


class PlainSandbox:
    """Commands in a temp folder, so that no sandbox's own cost is in the figures."""

    id = "plain"

    def __init__(self, root: Path) -> None:
        self.workspace = str(root / "workspace")
        self.support_dir = str(root / "support")
        Path(self.workspace).mkdir()

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", env: Mapping[str, str] | None = None, **_: object
    ) -> CommandResult:
        result = subprocess.run(
            argv, input=stdin, capture_output=True, check=False, cwd=self.workspace, env={**os.environ, **(env or {})}
        )
        return CommandResult(exit_code=result.returncode, stdout=result.stdout, stderr=result.stderr)

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)
        Path(path).chmod(mode)


async def measure(file_count: int, *, redacted: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sandbox = PlainSandbox(root)
        workspace = Path(sandbox.workspace)
        for number in range(file_count):
            path = workspace / f"d{number % 97}" / f"f{number}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"content {number}\n" * 20)
        redact = (lambda data: data.replace(b"secret", b"[redacted]")) if redacted else None
        repository = await Repository.open(
            mirror_dir=root / "mirror.git", sandbox=cast("Sandbox", sandbox), redact=redact
        )
        start = time.perf_counter()
        await repository.begin(datetime.now(UTC))
        first = time.perf_counter() - start
        hooks, parts = [], []
        for number in range(ROUNDS):
            (workspace / "d0" / "f0.txt").write_text(f"round {number}\n")
            start = time.perf_counter()
            subprocess.run([*repository.hook_command, f"call{number}"], check=True, cwd=workspace)
            hooks.append(time.perf_counter() - start)
            start = time.perf_counter()
            await repository.checkpoint(call_id=f"call{number}", part=number + 1, at=datetime.now(UTC))
            parts.append(time.perf_counter() - start)
        print(
            f"{file_count:>7} files, redactor {'on ' if redacted else 'off'}: begin {first * 1000:7.0f} ms, "
            f"hook {median(hooks) * 1000:5.1f} ms, orchestrator {median(parts) * 1000:5.1f} ms"
        )


if __name__ == "__main__":
    for count in [int(word) for word in sys.argv[1:]] or [100, 10_000]:
        for redacted in (False, True):
            anyio.run(lambda count=count, redacted=redacted: measure(count, redacted=redacted))
