"""A fake of Modal on the loopback interface for the real SDK."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test folders are no packages: for modal_fake, the machines of the E2B plugin's fake, and the model of Codex's tests.
TESTS = Path(__file__).parent
PLUGINS = TESTS.parents[1]
for folder in (TESTS, PLUGINS / "envoi_trace_e2b" / "tests", PLUGINS / "envoi_trace_codex" / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """One of its own for each test. The SDK keeps a client for the whole process, which is let go before and after."""
    if shutil.which("bwrap") is None:
        pytest.skip("the fake needs bubblewrap")
    import modal
    from modal_fake.server import FakeModal

    for name in ("MODAL_PROFILE", "MODAL_ENVIRONMENT", "MODAL_MAX_THROTTLE_WAIT"):
        monkeypatch.delenv(name, raising=False)
    with (
        tempfile.TemporaryDirectory(prefix="fake-modal-", ignore_cleanup_errors=True) as root,
        FakeModal(Path(root)) as made,
    ):
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        modal.Client._set_env_client(None)
        yield made
        modal.Client._set_env_client(None)
