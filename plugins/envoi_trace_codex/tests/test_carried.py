"""What an orchestrator on another machine is given: there the plugin must find the same credentials."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from envoi_trace_codex.credentials import carried, find_credentials
from envoi_trace_codex.options import CodexOptions

from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import Carried


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "here"
    (made / ".codex").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(made))
    return made


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def move(found: Carried) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "there"))
        for name in ("CODEX_API_KEY", "OPENAI_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in found.variables.items():
            monkeypatch.setenv(name, value)
        for name, text in found.files.items():
            path = Path(name).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return move


def test_a_key_of_the_environment(home: Path, elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    found = carried(CodexOptions())
    assert "canary" not in repr(found)
    elsewhere(found)
    assert find_credentials(CodexOptions()).secrets == {"codex API key": "canary-key"}


@pytest.mark.parametrize("named", [True, False])
def test_a_key_of_a_file(home: Path, elsewhere, named: bool, tmp_path: Path) -> None:
    path = tmp_path / "auth.json" if named else home / ".codex" / "auth.json"
    path.write_text(json.dumps({"OPENAI_API_KEY": "canary-key"}))
    options = CodexOptions(auth_file=str(path) if named else "")
    found = carried(options)
    path.unlink()
    elsewhere(found)
    assert find_credentials(options).secrets == {"codex API key": "canary-key"}


def test_a_login_goes_without_the_token_that_renews_it(home: Path, elsewhere) -> None:
    claims = {"exp": 4_000_000_000, "https://api.openai.com/auth": {"chatgpt_account_id": "account"}}
    access = f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.s"
    tokens = {"access_token": access, "refresh_token": "canary-refresh", "id_token": "i"}
    (home / ".codex" / "auth.json").write_text(json.dumps({"tokens": tokens}))
    here = find_credentials(CodexOptions()).login
    found = carried(CodexOptions())
    assert "canary-refresh" not in str(found.files)
    assert "2096-10-02 07:06 UTC" in found.notes[0]
    elsewhere(found)
    assert find_credentials(CodexOptions()).login == here


def test_nothing_for_a_server_that_asks_for_none_and_an_error_without_credentials(home: Path) -> None:
    assert carried(CodexOptions(base_url="http://127.0.0.1:9/v1")) == Carried()
    with pytest.raises(UsageError, match="no credentials for Codex"):
        carried(CodexOptions())
