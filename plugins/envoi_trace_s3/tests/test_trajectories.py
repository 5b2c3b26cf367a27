"""A whole trajectory by the real command, kept in a bucket."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow
def test_a_run_is_kept_in_the_bucket_and_read_from_it(client, bucket: str, endpoint_url: str, tmp_path: Path) -> None:
    environ = {**os.environ, "AWS_S3_BUCKET": bucket, "AWS_ENDPOINT_URL": endpoint_url}

    def envoi_trace(*words: str) -> str:
        argv = [sys.executable, "-m", "envoi_trace_core", *words]
        done = subprocess.run(
            argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    task, environment = EXAMPLES / "tasks/merge_sort", EXAMPLES / "environments/merge_sort"
    out = envoi_trace(
        "--agent", "script", "--sandbox", "local", "--storage", "s3", "--task", str(task), "--env", str(environment),
        "--trajectory-id", "kept", "--json",
    )  # fmt: skip
    assert "solved" in out
    keys = {item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert {"trajectories/kept/trace.parquet", "trajectories/kept/repo.bundle"} <= keys
    assert "kept" in envoi_trace("list", "--storage", "s3")
    assert "solved" in envoi_trace("show", "kept", "--storage", "s3")
    envoi_trace("graph", "kept", "--part", "3", "--checkout-dest", "at-3", "--storage", "s3")
    assert any(path.name != ".git" for path in (tmp_path / "at-3").iterdir())
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
