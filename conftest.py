"""What every test of every package gets."""

from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest

# How long an example takes is no matter of a test's: on a loaded machine any of them may take long.
hypothesis.settings.register_profile(
    "envoi-trace", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("envoi-trace")

# Whoever starts the tests in the background (`pytest &`) lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def own_state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's state directory, and none sees another's."""
    path = tmp_path / "state"
    monkeypatch.setenv("ENVOI_TRACE_STATE_DIR", str(path))
    for name in ("ENVOI_TRACE_STORAGE", "AWS_S3_BUCKET", "CODEX_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return path
