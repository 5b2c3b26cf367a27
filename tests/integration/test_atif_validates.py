"""What is exported is ATIF, by Harbor's own validator, in an environment of its own: it is large."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HARBOR = "harbor==0.24.0"
CACHE = Path(tempfile.gettempdir()) / "envoi-trace-test-environments" / HARBOR.replace("==", "-")


@pytest.fixture(scope="session")
def harbor_python() -> Path:
    python = CACHE / "bin" / "python"
    if not python.exists():
        install(CACHE)
    return python


def install(folder: Path) -> None:
    """Beside its place first: two test runs may do this at once, and one may be killed."""
    if shutil.which("uv") is None:
        pytest.skip("uv is needed to install harbor")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        made = Path(beside) / "venv"
        commands = [
            ["uv", "venv", "-q", "--relocatable", "--python", sys.executable, str(made)],
            ["uv", "pip", "install", "-q", "-p", str(made / "bin" / "python"), HARBOR],
        ]
        for command in commands:
            try:
                # Elsewhere than here, where uv would take this project's constraints for harbor's.
                done = subprocess.run(command, cwd=beside, capture_output=True, text=True, timeout=600, check=False)
            except subprocess.TimeoutExpired:
                pytest.skip(f"{HARBOR} could not be installed within ten minutes")
            if done.returncode:
                pytest.skip(f"{HARBOR} can't be installed here: {done.stderr.strip()[-300:]}")
        if not folder.exists():
            made.rename(folder)


def validate(python: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-m", "harbor.utils.trajectory_validator", str(file)],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_harbor_takes_what_is_exported(bench, harbor_python, tmp_path):
    bench.script(
        {"reasoning": "think"},
        {"write": "answer.txt", "content": "41"},
        {"usage": {"input": 900, "output": 50, "cost_usd": 0.01}},
        {"run_tests": ""},
        {"run": "exit 3"},
        {"text": "done \u2028 \x1b[2J"},
        {"turn": True},
        {"text": "again"},
        {"fail": "no more"},
    )
    bench.run("--label", "team=a")
    out = tmp_path / "t1.json"
    done = bench.cli("export", "t1", "--format", "atif", "--output", str(out))
    assert done.returncode == 0, done.stderr
    found = validate(harbor_python, out)
    assert found.returncode == 0, found.stderr
    steps = json.loads(out.read_text())["steps"]
    assert [step["source"] for step in steps].count("user") == 2
    assert steps[1]["llm_call_count"] == 1
    # The validator is one that refuses.
    broken = json.loads(out.read_text())
    broken["steps"][1]["colour"] = "red"
    out.write_text(json.dumps(broken))
    assert "unexpected field" in validate(harbor_python, out).stderr
