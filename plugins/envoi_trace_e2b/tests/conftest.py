"""A fake of E2B on the loopback interface for the real SDK, one for each test."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# For e2b_fake, and for the Codex that the other plugin's tests drive: test folders are no packages.
sys.path.insert(0, str(Path(__file__).parents[2] / "envoi_trace_codex" / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from e2b_fake.server import FakeE2b


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeE2b]:
    if shutil.which("bwrap") is None:
        pytest.skip("the fake needs bubblewrap")
    for name in ("E2B_DOMAIN", "E2B_DEBUG", "E2B_HTTP_VERSION"):
        monkeypatch.delenv(name, raising=False)
    with (
        tempfile.TemporaryDirectory(prefix="fake-e2b-", ignore_cleanup_errors=True) as root,
        FakeE2b(Path(root)) as made,
    ):
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        yield made
