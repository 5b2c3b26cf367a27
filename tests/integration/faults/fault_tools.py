"""Scripts whose runs can be compared, and the comparison: two runs are equal when nothing but their times differs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs

from envoi_trace_core.builtin.local_sandbox.folders import SandboxFolder
from envoi_trace_core.trace.events import read_compressed_events

CHEAP_ENVIRONMENT = """
import envoi

suite = envoi.suite("files")

@suite.test()
async def has_log():
    path = envoi.session_path() / "log.txt"
    lines = path.read_text().split() if path.is_file() else []
    return {"passed": len(lines), "failed": 1, "total": len(lines) + 1}
"""
"""The count of lines tells a part that was lost or done twice; it is never solved."""

OF_TIME = frozenset({"started_at", "timestamp", "duration_ms"})
OF_IDENTITY = frozenset({"trajectory_id", "session_id", "event_index"})
PATIENCE_S = 120.0


def mixed_script(
    parts: int, *, turn_every: int = 70, test_every: int = 60, pause_s: float = 0.0
) -> list[dict[str, Any]]:
    """Exactly that many parts of every kind. A few change files, as commits and their evaluations cost most."""
    actions: list[dict[str, Any]] = []
    for n in range(1, parts + 1):
        match n % 10:
            case 1:
                action = {"run": f"echo {n} >> log.txt"}
            case 4:
                action = {"write": f"file-{n % 30}.txt", "content": f"part {n}\n"}
            case 7 if n > 10:
                action = {"patch": patch_of_log(n)}
            case 8:
                action = {"run": f"echo seen {n}; exit {n % 3}"}
            case 3 | 6:
                action = {"reasoning": f"thought {n}"}
            case _:
                action = {"text": f"said {n}"}
        if n % test_every == 0:
            action = {"run_tests": ""}
        actions.append(action)
        if n % 5 == 0:
            actions.append({"usage": {"input": n, "output": 1, "cost_usd": 0.001}})
        if pause_s:
            actions.append({"sleep": pause_s})
        if n % turn_every == 0 and n < parts:
            actions.append({"turn": True})
    return actions


def patch_of_log(n: int) -> str:
    """A new file by a unified diff."""
    return f"--- /dev/null\n+++ b/patched-{n}.txt\n@@ -0,0 +1 @@\n+patch {n}\n"


# -- what a run recorded, without what must differ ----------------------------------------------------


def trees(run: Any) -> dict[str, str]:
    """Every commit of `repo.bundle` with its tree."""
    with TemporaryDirectory() as repository:
        subprocess.run(["git", "clone", "-q", "--mirror", run.folder / "repo.bundle", repository], check=True)
        words = ["git", "log", "--all", "--format=%H %T"]
        listed = subprocess.run(words, cwd=repository, check=True, capture_output=True, text=True).stdout
        return dict(line.split() for line in listed.splitlines())


def comparable_rows(run: Any) -> list[dict[str, Any]]:
    """The rows with each commit as its tree."""
    tree_of = trees(run)

    def plain(value: Any, name: str = "") -> Any:
        match value:
            case dict():
                left_out = OF_TIME | OF_IDENTITY
                return {key: plain(item, key) for key, item in value.items() if key not in left_out}
            case list():
                return [plain(item, name) for item in value]
            case str() if value in tree_of:
                return tree_of[value]
            case str() if "commit" in name:
                raise AssertionError(f"{name} {value} is not in repo.bundle")
        return value

    return [plain(row) for row in run.rows]


def comparable_events(run: Any) -> list[dict[str, Any]]:
    """The agent's native events, without times and ids; what it told again after its sandbox was lost stands once."""
    found: list[dict[str, Any]] = []
    for number, event in enumerate(read_compressed_events(run.folder / "events.jsonl.zst"), 1):
        assert event.index == number
        raw = json.loads(event.raw)
        item = raw.get("item", {})
        raw["item_number"] = (raw.get("item_id") or item.get("id") or "-").rpartition("-")[2]
        for name in ("at", "turn_id", "session_id", "item_id", "usage_id", "turn"):
            raw.pop(name, None)
        for name in ("id", "duration_ms"):
            item.pop(name, None)
        if raw["type"] != "session.started" and raw not in found:
            found.append(raw)
    return found


def assert_same_trace(run: Any, undisturbed: Any) -> None:
    """Nothing twice, nothing missing, and the same workspace at every part."""
    mine, theirs = comparable_rows(run), comparable_rows(undisturbed)
    assert [row["part"] for row in mine] == list(range(1, len(theirs) + 1))
    for one, other in zip(mine, theirs, strict=True):
        differing = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
        assert not differing, "\n".join(
            f"part {other['part']}, {name}: {one.get(name)!r}, undisturbed {other.get(name)!r}"
            for name in sorted(differing)
        )
    header, other_header = run.trace.header, undisturbed.trace.header
    for name in ("token_usage", "cost_usd", "parts", "turns"):
        if hasattr(header.summary, name):
            assert getattr(header.summary, name) == getattr(other_header.summary, name)


# -- processes --------------------------------------------------------------------------------------


def pids_of(bench: Any, role: str, word: str) -> list[int]:
    """Processes in a sandbox of this bench whose command lines hold a word."""
    marks = [SandboxFolder(path).mark for path in bench.sandboxes() if path.name.endswith(role)]
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (folder / "environ").read_bytes().decode(errors="replace")
                if word in command and any(mark in environment for mark in marks):
                    found.append(int(folder.name))
    return found


def first_process(bench: Any, role: str) -> int:
    """The pid of the first process of a local sandbox: with it all of the sandbox dies."""
    [folder] = [path for path in bench.sandboxes() if path.name.endswith(role)]
    return int(json.loads((folder / "sandbox.json").read_text())["pid"])


def kill_pid(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"in {timeout_s:.0f} s it did not happen: {what}"
        time.sleep(0.005)


# -- a reader beside the writer ---------------------------------------------------------------------


@attrs.define
class Reader:
    """Reads a trace again and again, as anyone may at any time."""

    run: Any
    rows_seen: list[int] = attrs.field(factory=list)
    errors: list[Exception] = attrs.field(factory=list)

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        ended = threading.Event()

        def read() -> None:
            while not ended.wait(0.05):
                if not (self.run.folder / "trace.parquet").exists():
                    continue
                try:
                    self.rows_seen.append(len(self.run.trace.rows))
                except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
                    self.errors.append(error)
                    return

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join(30)
