"""What an orchestrator on another machine is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from envoi_trace_s3.carried import carried


def test_settings_and_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_S3_BUCKET", "bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    found = carried()
    assert found.variables == {
        "AWS_S3_BUCKET": "bucket", "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "canary-secret-access-key",
    }  # fmt: skip
    assert not found.notes
    assert "canary" not in repr(found)


def test_a_profile_is_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        "[dev]\naws_access_key_id = key\naws_secret_access_key = secret\naws_session_token = token\n"
    )
    (tmp_path / "config").write_text("[profile dev]\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "dev")
    found = carried()
    assert found.variables == {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
        "AWS_DEFAULT_REGION": "eu-west-3",
    }  # fmt: skip
    [note] = found.notes
    assert "temporary" in note
