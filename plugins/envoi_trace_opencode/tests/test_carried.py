"""What an orchestrator on another machine is given: there the plugin must find the same key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from envoi_trace_opencode.credentials import carried, find_key
from envoi_trace_opencode.options import OpenCodeOptions
from envoi_trace_opencode.providers import choose


@pytest.mark.parametrize("where", ["variable", "stored", "named"])
def test_the_same_key(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    stored = tmp_path / "here" / ".local" / "share" / "opencode" / "auth.json"
    path = tmp_path / "auth.json" if where == "named" else stored
    options = OpenCodeOptions(auth_file=str(path) if where == "named" else "")
    if where == "variable":
        monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-key")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        login = {"type": "oauth", "refresh": "canary-refresh"}
        path.write_text(json.dumps({"anthropic": {"type": "api", "key": "canary-key"}, "openai": login}))
    found = carried(options)
    assert "canary" not in repr(found)
    assert "canary-refresh" not in str(found.files)

    path.unlink(missing_ok=True)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "there"))
    for name, value in found.variables.items():
        monkeypatch.setenv(name, value)
    for name, text in found.files.items():
        Path(name).expanduser().parent.mkdir(parents=True, exist_ok=True)
        Path(name).expanduser().write_text(text)
    assert find_key(options, choose("anthropic/m", options)) == "canary-key"
