"""Runs commands of a submission under limits, as many at once as there are processors."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

MIB = 1024 * 1024
HELPER = Path(__file__).with_name("confine.py")
GRACE_S = 30.0
"""How long the helper may take for killing and cleaning."""


@dataclass(frozen=True)
class Limits:
    """What one command may use."""

    wall_s: float
    memory_bytes: int
    output_bytes: int
    """Of stdout and of stderr each."""
    file_bytes: int
    """Of each file that it writes."""
    disk_bytes: int
    """Of all files in its folder together."""
    processes: int

    def within(self, wall_s: float) -> Limits:
        """The same with another time."""
        return replace(self, wall_s=wall_s)


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    ended: str
    """`exited`, `exec`, `timeout`, `processes`, `memory`, `output`, `disk` or `error`."""
    exit_status: int | None
    """None when it did not exit by itself."""
    signal: int | None
    stdout: bytes
    stderr: bytes
    duration_ms: int
    problem: str = ""
    """Why it could not be started, or what the helper said."""
    user: int | None = None
    """The user it ran as; None: ours."""
    namespaced: bool = False
    """Whether it ran in namespaces of its own."""

    def described(self, limits: Limits) -> str:
        """How it ended, in words."""
        if self.signal is not None:
            name = signal.Signals(self.signal).name if self.signal in set(signal.Signals) else str(self.signal)
            hint = {"SIGXFSZ": f" (a file of more than {limits.file_bytes // MIB} MiB)", "SIGXCPU": " (too slow)"}
            return f"killed by {name}{hint.get(name, '')}"
        return {
            "exited": f"exit status {self.exit_status}",
            "exec": f"could not be started: {self.problem}",
            "timeout": f"ran for more than {limits.wall_s:g} s",
            "processes": f"more than {limits.processes} processes at once",
            "memory": f"more than {limits.memory_bytes // MIB} MiB of memory",
            "output": f"wrote more than {limits.output_bytes // 1024} KiB",
            "disk": f"files of more than {limits.disk_bytes // MIB} MiB",
        }.get(self.ended, f"ended strangely: {self.problem or self.ended}")


_at_once: asyncio.Semaphore | None = None


def at_once(jobs: int) -> asyncio.Semaphore:
    """Shared by all tests of this process."""
    global _at_once  # noqa: PLW0603 - one event loop a process
    if _at_once is None:
        _at_once = asyncio.Semaphore(jobs or os.cpu_count() or 1)
    return _at_once


async def run(
    argv: Sequence[str],
    *,
    folder: Path,
    logs: Path,
    env: Mapping[str, str],
    limits: Limits,
    stdin: bytes = b"",
    own_user: bool = True,
    covers: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command in a folder to its end; nothing of it is left running.

    Args:
        argv: The first word is an absolute path.
        folder: Where it works; as root, it and what is in it is given to the user that the command runs as.
        logs: A folder out of its reach, for its output.
        env: All of its environment.
        limits: What it may use.
        stdin: What it can read.
        own_user: As root: run it as a user of its own.
        covers: Files that it must not see, each with the one that it sees instead.
    """
    given, out, err = _prepare(logs, stdin)
    spec = {
        "argv": list(argv), "env": dict(env), "cwd": str(folder),
        "stdin": str(given), "stdout": str(out), "stderr": str(err),
        "wall_s": limits.wall_s, "cpu_s": limits.wall_s + 1, "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes, "output_bytes": limits.output_bytes, "disk_bytes": limits.disk_bytes,
        "processes": limits.processes, "own_user": own_user, "covers": dict(covers or {}),
    }  # fmt: skip
    answer = await _ask_helper(json.dumps(spec).encode(), limits.wall_s + GRACE_S)
    ended, said = str(answer["ended"]), str(answer["status"])
    status = int(said) if ended == "exited" else None
    large = any(path.exists() and path.stat().st_size > limits.output_bytes for path in (out, err))
    if ended == "exec" and said.isdigit():
        said = os.strerror(int(said))
    return Finished(
        ended="output" if large and ended == "exited" else ended,
        exit_status=os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) and not large else None,
        stdout=_head(out, limits.output_bytes),
        stderr=_head(err, limits.output_bytes),
        duration_ms=int(answer["duration_ms"]),
        problem="" if status is not None else said,
        user=answer.get("user"),
        namespaced=bool(answer.get("namespaced")),
    )


def _prepare(logs: Path, stdin: bytes) -> tuple[Path, Path, Path]:
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "stdin").write_bytes(stdin)
    return logs / "stdin", logs / "stdout", logs / "stderr"


async def _ask_helper(spec: bytes, timeout_s: float) -> dict:
    helper = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(HELPER),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(helper.communicate(spec), timeout_s)
        return json.loads(out)
    except TimeoutError:
        return {"ended": "error", "status": "it could not be ended in time", "duration_ms": int(timeout_s * 1000)}
    except ValueError:
        return {"ended": "error", "status": err.decode(errors="replace")[-500:], "duration_ms": 0}
    finally:
        if helper.returncode is None:
            helper.kill()
            await helper.wait()


def _head(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError:
        return b""


def remove(folder: Path) -> None:
    """Remove a command's folder, whatever it made of it."""

    def open_and_retry(function, path, _error) -> None:
        try:
            Path(path).parent.chmod(0o700)
            function(path)
        except OSError:
            pass

    shutil.rmtree(folder, onexc=open_and_retry)
