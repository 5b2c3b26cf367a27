"""The store is down, in the middle of a run and at its end: nothing that was recorded is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pyarrow.parquet as pq
import pytest
from s3_proxy import Fault, Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.anyio]

OUTAGE_S = 32.0
"""Longer than the client tries again: resets come at once, and six attempts back off for less."""
IMPATIENT = """
import envoi_trace_core.run.archive as archive
import envoi_trace_s3.opening as opening
from envoi_trace_core.cli.main import main

archive.FLUSH_TIMEOUT_S, archive.PRESERVE_TIMEOUT_S, opening.MAX_ATTEMPTS = 6.0, 3.0, 2
main()
"""
"""The command with less patience at its end, so that the test need not wait for minutes."""
ENVIRONMENT = """
import envoi

@envoi.test()
async def lines():
    path = envoi.session_path() / "log.txt"
    return {"passed": len(path.read_text().split()) if path.is_file() else 0, "failed": 1, "total": 99}
"""
PARTS = 24


class Runs:
    """The command on a small task, with the bucket behind the proxy."""

    def __init__(self, folder: Path, bucket: str, proxy: Proxy) -> None:
        self.folder, self.proxy, self.bucket = folder, proxy, bucket
        self.task, self.environment = folder / "task", folder / "environment"
        for path in (self.task, self.environment):
            path.mkdir()
        (self.task / "en.md").write_text("Write lines.")
        (self.environment / "main.py").write_text(ENVIRONMENT)

    def script(self, pause_s: float) -> None:
        actions: list[dict[str, Any]] = []
        for n in range(1, PARTS + 1):
            actions += [{"run": f"echo {n} >> log.txt"} if n % 3 else {"text": f"said {n}"}, {"sleep": pause_s}]
        (self.task / "script.jsonl").write_text("".join(json.dumps(action) + "\n" for action in actions))

    def argv(self, trajectory_id: str) -> list[str]:
        return [
            "--agent", "script", "--sandbox", "local", "--storage", "s3", "--task", str(self.task),
            "--env", str(self.environment), "--trajectory-id", trajectory_id, "--max-turns", "1", "--json",
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "AWS_S3_BUCKET": self.bucket, "AWS_ENDPOINT_URL": self.proxy.url}

    def start(self, trajectory_id: str, *, program: str = "") -> subprocess.Popen[str]:
        how = ["-c", program] if program else ["-m", "envoi_trace_core"]
        return subprocess.Popen(
            [sys.executable, *how, *self.argv(trajectory_id)],
            cwd=self.folder, env=self.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    async def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        def run() -> subprocess.CompletedProcess[str]:
            argv = [sys.executable, "-m", "envoi_trace_core", *words]
            return subprocess.run(
                argv, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=200, check=False
            )

        return await anyio.to_thread.run_sync(run)

    async def run(self, trajectory_id: str) -> None:
        done = await self.cli(*self.argv(trajectory_id))
        assert done.returncode == 0, done.stderr

    def parts(self, trajectory_id: str) -> int:
        state = Path(os.environ["ENVOI_TRACE_STATE_DIR"])
        path = state / "trajectories" / trajectory_id / "journal.jsonl"
        return path.read_text().count('"PartRecorded"') if path.exists() else 0

    async def until(self, trajectory_id: str, parts: int, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while self.parts(trajectory_id) < parts and process.poll() is None:
            assert time.monotonic() < deadline
            await anyio.sleep(0.05)

    def recorded(self, client: Any, trajectory_id: str) -> list[tuple[Any, ...]]:
        """Each part with its workspace."""
        prefix = f"trajectories/{trajectory_id}"
        data = client.get_object(Bucket=self.bucket, Key=f"{prefix}/trace.parquet")["Body"].read()
        bundle = self.folder / f"{trajectory_id}.bundle"
        client.download_file(self.bucket, f"{prefix}/repo.bundle", str(bundle))
        clone = self.folder / f"{trajectory_id}.git"
        subprocess.run(["git", "clone", "-q", "--mirror", bundle, clone], check=True)
        words = ["git", "log", "--all", "--format=%H %T"]
        listed = subprocess.run(words, cwd=clone, check=True, capture_output=True, text=True).stdout
        trees = dict(line.split() for line in listed.splitlines())
        names = ("part", "turn", "part_type", "summary", "content", "tool_output", "session_end_reason")
        rows = pq.read_table(BytesIO(data)).to_pylist()
        return [(*(row[name] for name in names), trees[row["git_commit"]]) for row in rows]


@pytest.fixture
async def runs(tmp_path: Path, bucket: str, proxy: Proxy) -> AsyncIterator[Runs]:
    made = Runs(tmp_path, bucket, proxy)
    yield made
    await made.cli("cleanup", "--yes", "--all", "--sandbox", "local")


async def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    return await anyio.to_thread.run_sync(lambda: process.communicate(timeout=300))


async def test_a_store_that_is_down_for_half_a_minute_ends_no_run(runs: Runs, client, proxy: Proxy) -> None:
    runs.script(0.0)
    await runs.run("whole")
    runs.script(2.0)
    process = runs.start("t1")
    await runs.until("t1", 4, process)
    refused = 0

    def refuse(_request: object) -> Fault:
        nonlocal refused
        refused += 1
        return Fault("reset")

    before = runs.parts("t1")
    proxy.decide = refuse
    await anyio.sleep(OUTAGE_S)  # the outage is what is tested
    during = runs.parts("t1")
    proxy.decide = lambda _request: None
    out, said = await ended(process)
    assert process.returncode == 0, said
    assert during > before + 3, "the run did not go on"
    assert refused > 6
    assert json.loads(out.strip().splitlines()[-1])["parts"] == PARTS
    assert runs.recorded(client, "t1") == runs.recorded(client, "whole")


async def test_a_store_that_is_down_at_the_end_is_made_up_for_by_upload(runs: Runs, client, proxy: Proxy) -> None:
    runs.script(0.0)
    await runs.run("whole")
    runs.script(0.2)
    process = runs.start("t1", program=IMPATIENT)
    await runs.until("t1", PARTS // 2, process)
    proxy.decide = lambda _request: Fault("reset")
    out, said = await ended(process)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert json.loads(out.strip().splitlines()[-1])["reason"] == "turn_limit"
    assert os.environ["ENVOI_TRACE_STATE_DIR"] in said
    assert "envoi-trace upload t1" in said
    while_down = await runs.cli("upload", "t1", "--storage", "s3")
    assert while_down.returncode == 1
    assert "Traceback" not in while_down.stderr
    proxy.decide = lambda _request: None
    done = await runs.cli("upload", "t1", "--storage", "s3")
    assert done.returncode == 0, done.stderr
    assert runs.recorded(client, "t1") == runs.recorded(client, "whole")
