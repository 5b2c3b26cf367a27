"""A whole trajectory by the real command, kept in a bucket."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import zstandard

EXAMPLES = Path(__file__).parents[3] / "examples"
SECRET = "canary/secret+access key"

pytestmark = pytest.mark.slow


@pytest.fixture
def envoi_trace(bucket: str, endpoint_url: str, tmp_path: Path) -> Callable[..., str]:
    """The command, with that bucket; gives what it wrote to stdout and stderr."""
    environ = {**os.environ, "AWS_S3_BUCKET": bucket, "AWS_ENDPOINT_URL": endpoint_url, "AWS_SECRET_ACCESS_KEY": SECRET}

    def run(*words: str) -> str:
        argv = [sys.executable, "-m", "envoi_trace_core", *words]
        done = subprocess.run(
            argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def test_a_run_is_kept_in_the_bucket_and_read_from_it(client, bucket: str, envoi_trace, tmp_path: Path) -> None:
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
    counted = envoi_trace(
        "query", "select max(evaluation.passed), count(*) from parts", "--storage", "s3", "--format", "csv"
    )
    assert "\n9,14" in counted
    envoi_trace("graph", "kept", "--storage", "s3", "--output", "charts")
    assert (tmp_path / "charts" / "report.html").is_file()
    envoi_trace("export", "kept", "--format", "jsonl", "--output", "kept.jsonl", "--storage", "s3")
    envoi_trace("import", "kept.jsonl", "--format", "jsonl", "--trajectory-id", "again", "--storage", "s3")
    assert {"again", "kept"} <= set(envoi_trace("list", "--storage", "s3").split())
    evaluated = envoi_trace(
        "evaluate", "kept", "--env", str(environment), "--sandbox", "local", "--commits", "last", "--write",
        "--storage", "s3", "--json",
    )  # fmt: skip
    assert '"errors": 0' in evaluated


def test_the_storages_own_secret_is_in_no_object_and_not_in_the_agents_shell(
    client, bucket: str, envoi_trace, tmp_path: Path
) -> None:
    forms = [SECRET, quote(SECRET), quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode().rstrip("=")]
    (task := tmp_path / "task").mkdir()
    (task / "en.md").write_text(f"Your key is {SECRET}.")
    actions = [
        {"run": "env; echo it was given $AWS_SECRET_ACCESS_KEY"},
        {"text": " ".join(forms)},
        {"run": f"echo '{SECRET}'"},
        {"write": "keys.txt", "content": "\n".join(forms)},
    ]
    (task / "script.jsonl").write_text("".join(json.dumps(action) + "\n" for action in actions))
    said = envoi_trace(
        "--agent", "script", "--sandbox", "local", "--storage", "s3", "--task", str(task), "--max-turns", "1",
        "--env", str(EXAMPLES / "environments/hello"), "--trajectory-id", "canary", "--json", "--debug",
    )  # fmt: skip
    said += envoi_trace("show", "canary", "--storage", "s3") + envoi_trace("logs", "canary", "--storage", "s3")
    assert not [form for form in forms if form in said]
    rows = []
    for item in client.list_objects_v2(Bucket=bucket)["Contents"]:
        data = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        if item["Key"].endswith(".parquet"):
            rows = pq.read_table(BytesIO(data)).to_pylist()
            data = json.dumps(rows, default=str).encode()
        elif item["Key"].endswith(".zst"):
            data = zstandard.ZstdDecompressor().stream_reader(BytesIO(data)).read()
        elif item["Key"].endswith(".bundle"):
            data = objects_of(data, tmp_path / "unpacked")
        assert not [form for form in forms if form.encode() in data], item["Key"]
    assert [row["part_type"] for row in rows] == ["tool", "text", "tool", "patch"]
    assert "it was given\n" in rows[0]["tool_output"]
    assert "AWS_" not in rows[0]["tool_output"]
    assert "[redacted:" in rows[2]["tool_output"]


def objects_of(bundle: bytes, repository: Path) -> bytes:
    """What is in a bundle, unpacked."""
    subprocess.run(["git", "init", "-q", "--bare", repository], check=True)
    (repository / "given.bundle").write_bytes(bundle)
    fetch = ["git", "fetch", "-q", "given.bundle", "+refs/*:refs/x/*"]
    subprocess.run(fetch, cwd=repository, check=True)
    words = ["git", "cat-file", "--batch", "--batch-all-objects"]
    return subprocess.run(words, cwd=repository, check=True, capture_output=True).stdout
