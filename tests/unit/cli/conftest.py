"""The command line, and run mode up to where the run begins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from envoi_trace_core.cli import main as main_module
from envoi_trace_core.cli.run_options import RunOptions


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
