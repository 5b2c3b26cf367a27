"""Whole trajectories by the real command with `--sandbox modal`, on small tasks that the tests write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from modal_fake.server import FakeModal

COMMAND = [sys.executable, "-m", "envoi_trace_core"]
REPOSITORY = Path(__file__).parents[3]

ENVIRONMENT = """
import envoi

suite = envoi.suite("files")

@suite.test()
async def has_answer():
    path = envoi.session_path() / "answer.txt"
    good = path.is_file() and path.read_text().strip() == "42"
    return {"passed": int(good), "failed": int(not good), "total": 1}
"""


@attrs.define
class Finished:
    """What a run gave."""

    exit_status: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stdout.strip().splitlines()[-1])
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = pq.read_table(self.folder / "trace.parquet").to_pylist()
        return rows


@attrs.define
class Bench:
    """A working folder, a task, an environment, and the command that runs them on the fake."""

    fake: FakeModal
    root: Path
    task: Path
    environment: Path

    @classmethod
    def make(cls, fake: FakeModal, root: Path) -> Bench:
        made = cls(fake, root / "work", root / "task", root / "env")
        for folder in (made.root, made.task, made.environment):
            folder.mkdir()
        (made.task / "en.md").write_text("Write 42 into answer.txt.")
        (made.environment / "main.py").write_text(ENVIRONMENT)
        return made

    def script(self, *actions: dict[str, Any]) -> None:
        (self.task / "script.jsonl").write_text("".join(json.dumps(action) + "\n" for action in actions))

    def argv(self, *more: str, agent: str = "script") -> list[str]:
        return [
            *COMMAND, "--agent", agent, "--sandbox", "modal", "--storage", "local", "--trajectory-id", "t1",
            "--task", str(self.task), "--env", str(self.environment), "--json", "--timeout", "600", *more,
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        state = {"ENVOI_TRACE_STATE_DIR": str(self.root / "state"), "ENVOI_TRACE_DISABLE_PLUGINS": "e2b"}
        return {**os.environ, **self.fake.environ, **state}

    def start(self, *more: str, environ: dict[str, str] | None = None, **which: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*more, **which), cwd=self.root, env={**self.environ, **(environ or {})},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str]) -> Finished:
        stdout, stderr = process.communicate(timeout=200)
        return Finished(process.returncode, stdout, stderr, self.root / "trajectories" / "t1")

    def run(self, *more: str, **which: Any) -> Finished:
        return self.finish(self.start(*more, **which))

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], cwd=self.root, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )

    def parts(self) -> int:
        """Parts in the journal by now."""
        path = self.root / "state" / "trajectories" / "t1" / "journal.jsonl"
        return path.read_text().count('"PartRecorded"') if path.exists() else 0

    def sandbox_of(self, role: str) -> str:
        """The id of the one that lives."""
        sandboxes = self.fake.state.sandboxes
        (found,) = [each for each in self.fake.live() if sandboxes[each].tags["role"] == role]
        return found


def wait_until(condition: Callable[[], object], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
