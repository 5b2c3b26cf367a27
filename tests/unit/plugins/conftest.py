"""Fake third-party plugins: folders with a real `.dist-info`, put on `sys.path`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envoi_trace_core.plugins import Plugins

DATA = Path(__file__).parent / "data"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Plugins]]:
    """Discover with these fakes installed."""
    before = set(sys.modules)

    def discover(*names: str) -> Plugins:
        for name in names:
            monkeypatch.syspath_prepend(DATA / name)
        return Plugins.discover()

    yield discover
    for name in set(sys.modules) - before:
        if name.endswith("_trace_plugin"):
            del sys.modules[name]


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in an empty folder, with these fakes installed."""
    folder = tmp_path / "cwd"
    folder.mkdir()

    def run(*words: str, fakes: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        import os

        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(DATA / name) for name in fakes),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "envoi_trace_core.cli.main", *words],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run
