"""The command line in this process: of hundreds of commands each would start a Python of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from envoi_trace_core.cli import main as main_module


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
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as if it were a process: exit status, what it wrote, what stdin held, more variables."""

    def run(*words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        environ = dict(os.environ)
        os.environ.update(variables)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
            try:
                with pytest.raises(SystemExit) as ended:
                    main_module.main(list(words))
            finally:
                os.environ.clear()  # of what a .env brought
                os.environ.update(environ)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def cli(
    folder: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command in that empty folder."""
    return command
