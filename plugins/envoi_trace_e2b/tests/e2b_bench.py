"""Whole trajectories by the real command with `--sandbox e2b`, on small tasks that the tests write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from e2b_fake.server import FakeE2b

COMMAND = [sys.executable, "-m", "envoi_trace_core"]
REPOSITORY = Path(__file__).parents[3]

NEVER_SOLVED = """
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

    def file_at(self, commit: str, path: str, scratch: Path) -> str:
        """A file of a commit, from repo.bundle."""
        clone = scratch / f"{self.folder.name}-clone"
        if not clone.exists():
            subprocess.run(["git", "clone", "-q", "--mirror", self.folder / "repo.bundle", clone], check=True)
        words = ["git", "-C", str(clone), "show", f"{commit}:{path}"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@attrs.define
class Bench:
    """A working folder, a task, an environment, and the command that runs them on the fake."""

    fake: FakeE2b
    root: Path
    task: Path
    environment: Path

    @classmethod
    def make(cls, fake: FakeE2b, root: Path) -> Bench:
        made = cls(fake, root / "work", root / "task", root / "env")
        for folder in (made.root, made.task, made.environment):
            folder.mkdir()
        (made.task / "en.md").write_text("Write 42 into answer.txt.")
        (made.environment / "main.py").write_text(NEVER_SOLVED)
        return made

    def script(self, *actions: dict[str, Any]) -> None:
        (self.task / "script.jsonl").write_text("".join(json.dumps(action) + "\n" for action in actions))

    def argv(self, *more: str, trajectory_id: str | None = "t1", agent: str = "script") -> list[str]:
        name = ["--trajectory-id", trajectory_id] if trajectory_id is not None else []
        return [
            *COMMAND, "--agent", agent, "--sandbox", "e2b", "--storage", "local", *name,
            "--task", str(self.task), "--env", str(self.environment), "--json", "--timeout", "600", *more,
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, **self.fake.environ, "ENVOI_TRACE_STATE_DIR": str(self.root / "state")}

    def start(self, *more: str, **which: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*more, **which), cwd=self.root, env=self.environ,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str], trajectory_id: str = "t1") -> Finished:
        stdout, stderr = process.communicate(timeout=400)
        return Finished(process.returncode, stdout, stderr, self.root / "trajectories" / trajectory_id)

    def run(self, *more: str, **which: Any) -> Finished:
        return self.finish(self.start(*more, **which), which.get("trajectory_id") or "t1")

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], cwd=self.root, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )

    def parts(self, trajectory_id: str = "t1") -> int:
        """Parts in the journal by now."""
        path = self.root / "state" / "trajectories" / trajectory_id / "journal.jsonl"
        return path.read_text().count('"PartRecorded"') if path.exists() else 0

    def sandbox_of(self, role: str) -> str:
        """The id of the one that lives."""
        (found,) = [each.id for each in self.fake.state.sandboxes.values() if each.metadata["role"] == role]
        return found

    @staticmethod
    def kill_hard(process: subprocess.Popen[str]) -> None:
        """SIGKILL to the orchestrator and nothing else."""
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def wait_until(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
