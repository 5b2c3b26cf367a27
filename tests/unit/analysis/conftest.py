"""Traces that the tests make up, as large as they need, and a real browser to look at reports."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from envoi_trace_core.domain.facts import (
    EvaluationRecorded,
    PartRecorded,
    SessionBegun,
    TrajectoryBegun,
    TrajectoryEnded,
    TurnBegun,
    UsageRecorded,
)
from envoi_trace_core.domain.parts import (
    ChangedFile,
    Evaluation,
    EvaluationStatus,
    Part,
    PathResult,
    RepoCheckpoint,
    SessionEndReason,
    TestCounts,
    TokenUsage,
    Trajectory,
)
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.reader import Trace, read_trace

BEGAN_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PATHS = ("sort/small", "sort/large", "format/plain", "format/wide")


@attrs.define
class TraceMaker:
    """A trajectory of ten seconds a part, told with as few words as a test needs."""

    trajectory_id: str = "t1"
    paths: tuple[str, ...] = PATHS
    tests_a_path: int = 5
    state: TraceState = attrs.field(factory=TraceState)
    parts: int = 0
    session: str = "s1"

    def begin(self, **fields: object) -> TraceMaker:
        values = {
            "trajectory_id": self.trajectory_id,
            "agent": "codex",
            "model": "gpt-5.5",
            "sandbox": "local",
            "task": "sorting",
            "environment": "sorting",
            "started_at": BEGAN_AT,
            "envoi_trace_version": "0.1.0",
        }
        trajectory = Trajectory(**{**values, **fields})
        self.state.apply(TrajectoryBegun(trajectory=trajectory, test_paths=self.paths, initial_commit="0" * 40))
        self.begin_session("s1")
        self.state.apply(TurnBegun(turn=1, session_id="s1", prompt="Sort the lines.", at=BEGAN_AT))
        return self

    def begin_session(self, session_id: str) -> TraceMaker:
        self.session = session_id
        self.state.apply(SessionBegun(session_id=session_id, at=BEGAN_AT))
        return self

    def part(self, *, commits: bool = False, tokens: int = 0, cost_usd: float | None = None, **fields: object) -> str:
        """Add a part; gives its commit."""
        self.parts += 1
        before, after = f"{self.parts - 1:040x}", f"{self.parts:040x}"
        checkpoint = RepoCheckpoint(
            commit_before=before,
            commit_after=after,
            changed_files=(ChangedFile(path="a.py", status="modified", additions=2, deletions=1),),
        )
        values = {
            "part": self.parts,
            "turn": 1,
            "session_id": self.session,
            "timestamp": BEGAN_AT + timedelta(seconds=10 * self.parts),
            "duration_ms": 1200,
            "event_index": self.parts,
            "part_type": "tool",
            "tool_name": "shell",
            "tool_input": '{"command": "ls"}',
            "tool_output": f"output of part {self.parts}",
            "git_commit": after if commits else before,
            "repo_checkpoint": checkpoint if commits else None,
            "patch": "--- a/a.py\n+++ b/a.py\n@@ -1 +1,2 @@\n-old\n+new\n+newer\n" if commits else None,
        }
        self.state.apply(PartRecorded(part=Part(**{**values, **fields})))
        usage = TokenUsage(input=tokens, total=tokens) if tokens else None
        if usage is not None or cost_usd is not None:
            self.state.apply(UsageRecorded(part=self.parts, usage=usage, cost_usd=cost_usd, event_index=self.parts))
        return after

    def evaluated(
        self,
        passed: Mapping[str, int] | None = None,
        *,
        status: EvaluationStatus = "completed",
        error: str | None = None,
        **fields: object,
    ) -> TraceMaker:
        """Add a part that commits, and its evaluation: passed tests of paths; the others pass none."""
        commit = self.part(commits=True, **fields)
        results = tuple(
            PathResult(
                path=path,
                counts=TestCounts(
                    passed=(passed or {}).get(path, 0),
                    failed=self.tests_a_path - (passed or {}).get(path, 0),
                    total=self.tests_a_path,
                ),
            )
            for path in self.paths
        )
        if status != "completed":
            results = ()
        counts = sum((result.counts for result in results), TestCounts())
        evaluation = Evaluation(commit=commit, status=status, counts=counts, results=results, error=error)
        self.state.apply(EvaluationRecorded(evaluation=evaluation))
        return self

    def end(self, reason: SessionEndReason = "part_limit", message: str | None = None) -> TraceMaker:
        self.state.apply(
            TrajectoryEnded(
                reason=reason,
                message=message,
                total_parts=self.parts,
                total_turns=1,
                final_commit=self.state.head,
                at=BEGAN_AT + timedelta(seconds=10 * self.parts + 5),
            )
        )
        return self

    @property
    def data(self) -> bytes:
        return encode_trace(self.state.snapshot())

    @property
    def trace(self) -> Trace:
        """As a reader gets it: through the file."""
        return read_trace(self.data)


@pytest.fixture
def make() -> Callable[..., TraceMaker]:
    return TraceMaker


@pytest.fixture
def typical() -> TraceMaker:
    """Two sessions, a build that failed, a drop, and a rise."""
    maker = TraceMaker().begin()
    maker.part(tokens=100, cost_usd=0.5)
    maker.evaluated({"sort/small": 5, "sort/large": 2}, tokens=100)
    maker.evaluated(status="build_failed", error="make: Error 1")
    maker.part(part_type="reasoning", tool_name=None, content="Hm.", tokens=50, cost_usd=0.25)
    maker.begin_session("s2")
    maker.evaluated({"sort/small": 5, "sort/large": 5, "format/plain": 1})
    maker.evaluated({"sort/small": 5, "format/plain": 3})
    maker.evaluated(status="error", error="the runtime died")
    maker.part()
    return maker.end()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A headless Chromium with one page, driven over the DevTools protocol on a pipe (no port, no library).

    https://chromedevtools.github.io/devtools-protocol/
    """

    def __init__(self, profile: Path) -> None:
        to_read, self._write_fd = os.pipe()
        self._read_fd, to_write = os.pipe()
        words = [
            str(CHROMIUM), "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--disable-gpu",
            "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", "--window-size=1300,1000",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
        ]  # fmt: skip
        # Chromium reads commands on descriptor 3 and answers on 4.
        move = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", move, "bash", *words], pass_fds=(to_read, to_write), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        try:
            targets = self.call("Target.getTargets")["targetInfos"]
            page = next(target["targetId"] for target in targets if target["type"] == "page")
            self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._write_fd)  # that ends it
        os.close(self._read_fd)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=20)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write_fd, data) :]
        deadline = time.monotonic() + 60
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser did not answer in time"
            chunk = os.read(self._read_fd, 1 << 20)
            assert chunk, "the browser ended"
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\0")
        return json.loads(line)

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a report, and wait until it is drawn."""
        self.events.clear()
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.as_uri() + fragment)
        self.wait("document.documentElement?.dataset.ready === 'yes'")

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.js(f"Boolean({condition})"):
            assert time.monotonic() < deadline, (condition, self.complaints())
            time.sleep(0.02)

    def mouse(self, x: float, y: float, *, click: bool = False) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def complaints(self) -> list[Any]:
        """Exceptions, errors and warnings on the console, and what was asked of a network."""
        found: list[Any] = []
        for event in self.events:
            params = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(params["exceptionDetails"])
                case "Runtime.consoleAPICalled":
                    found.append(params["args"])
                case "Log.entryAdded":
                    found.append(params["entry"])
                case "Network.requestWillBeSent" if not params["request"]["url"].startswith("file://"):
                    if params["request"]["url"] != "about:blank":
                        found.append(params["request"]["url"])
        return found

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    made = Browser(tmp_path_factory.mktemp("chromium"))
    try:
        yield made
    finally:
        made.close()
