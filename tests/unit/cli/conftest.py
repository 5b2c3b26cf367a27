"""The command line as a process, and run mode up to where the run begins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from envoi_trace_core.cli import main as main_module
from envoi_trace_core.cli.run_options import RunOptions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no setting from this machine's environment."""
    path = tmp_path / "cwd"
    path.mkdir()
    monkeypatch.chdir(path)
    for name in list(os.environ):
        if name.startswith("ENVOI_TRACE_") and name != "ENVOI_TRACE_STATE_DIR":
            monkeypatch.delenv(name)
    return path


@pytest.fixture
def cli(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in that folder."""

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "envoi_trace_core.cli.main", *words],
            cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def options_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunOptions]:
    """What run mode is asked for by these words: everything is real but the run itself."""
    seen: list[RunOptions] = []

    def run(options: RunOptions) -> int:
        seen.append(options)
        return 0

    monkeypatch.setitem(sys.modules, "envoi_trace_core.cli.run_command", SimpleNamespace(run=run))

    def parse(*words: str) -> RunOptions:
        with pytest.raises(SystemExit) as ended:
            main_module.main(list(words))
        assert ended.value.code == 0
        return seen.pop()

    return parse
