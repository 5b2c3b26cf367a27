"""Whole trajectories by the real command, on small tasks and environments that the tests write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pyarrow.parquet as pq
import pytest

from envoi_trace_core.trace.reader import Trace, read_trace

COMMAND = [sys.executable, "-m", "envoi_trace_core"]

NEVER_SOLVED = """
import envoi

suite = envoi.suite("files")

@suite.test()
async def has_answer():
    path = envoi.session_path() / "answer.txt"
    good = path.is_file() and path.read_text().strip() == "42"
    return {"passed": int(good), "failed": int(not good), "total": 1}

@suite.test()
async def never():
    return {"passed": 0, "failed": 1, "total": 1}
"""


@attrs.define
class Run:
    """What a finished command gave."""

    exit_status: int
    stdout: str
    stderr: str
    trajectory_id: str
    storage: Path

    @property
    def folder(self) -> Path:
        return self.storage / "trajectories" / self.trajectory_id

    @property
    def trace(self) -> Trace:
        return read_trace(self.folder / "trace.parquet")

    @property
    def rows(self) -> list[dict[str, Any]]:
        # Opened once: a snapshot may take the file's place between two openings.
        with pq.ParquetFile(self.folder / "trace.parquet") as file:
            return file.read().to_pylist()

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.stdout.strip().splitlines()[-1])


@attrs.define
class Bench:
    """A folder with a task and an environment, and the command to run them."""

    root: Path
    state: Path
    task: Path
    environment: Path

    def script(self, *actions: dict[str, Any]) -> None:
        (self.task / "script.jsonl").write_text("".join(json.dumps(action) + "\n" for action in actions))

    def main_py(self, text: str) -> None:
        (self.environment / "main.py").write_text(text)

    def argv(self, *options: str, trajectory_id: str = "t1") -> list[str]:
        return [
            *COMMAND, "--agent", "script", "--sandbox", "local", "--storage", "local",
            "--task", str(self.task), "--env", str(self.environment), "--trajectory-id", trajectory_id,
            "--json", "--no-auto-resume", *options,
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "ENVOI_TRACE_STATE_DIR": str(self.state)}

    def run(self, *options: str, trajectory_id: str = "t1", timeout_s: float = 100) -> Run:
        done = subprocess.run(
            self.argv(*options, trajectory_id=trajectory_id), cwd=self.root, env=self.environ,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        return Run(done.returncode, done.stdout, done.stderr, trajectory_id, self.root)

    def start(self, *options: str, trajectory_id: str = "t1") -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*options, trajectory_id=trajectory_id), cwd=self.root, env=self.environ,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    @staticmethod
    def command(*words: str) -> list[str]:
        return [*COMMAND, *words]

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], cwd=self.root, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )

    def finished(self, trajectory_id: str = "t1") -> Run:
        """A run that `start` began, as its artifacts tell it."""
        return Run(0, "", "", trajectory_id, self.root)

    def parts(self, trajectory_id: str = "t1") -> int:
        """Parts in the journal by now."""
        path = self.journal(trajectory_id)
        return path.read_text().count('"PartRecorded"') if path.exists() else 0

    @staticmethod
    def kill_hard(process: subprocess.Popen[str]) -> None:
        """SIGKILL to the orchestrator and nothing else."""
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)

    @staticmethod
    def tree_at(run: Run, commit: str) -> str:
        """The hash of the workspace at a commit of `repo.bundle`."""
        clone = run.folder.parent / f"{run.trajectory_id}-clone"
        if not clone.exists():
            subprocess.run(["git", "clone", "-q", run.folder / "repo.bundle", clone], check=True)
        words = ["git", "rev-parse", f"{commit}^{{tree}}"]
        return subprocess.run(words, cwd=clone, check=True, capture_output=True, text=True).stdout

    def journal(self, trajectory_id: str = "t1") -> Path:
        return self.state / "trajectories" / trajectory_id / "journal.jsonl"

    def processes(self) -> list[str]:
        """Command lines of every process of this machine that names this bench's state folder."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if str(self.state) in words:
                    found.append(words)
        return found

    def sandboxes(self) -> list[Path]:
        folder = self.state / "sandboxes"
        return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(root=tmp_path / "work", state=tmp_path / "state", task=tmp_path / "task", environment=tmp_path / "env")
    for folder in (made.root, made.task, made.environment):
        folder.mkdir()
    (made.task / "en.md").write_text("Write 42 into answer.txt.")
    made.main_py(NEVER_SOLVED)
    yield made
    subprocess.run([*COMMAND, "cleanup", "--yes"], env=made.environ, cwd=made.root, capture_output=True, check=False)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(condition: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)

    return wait
