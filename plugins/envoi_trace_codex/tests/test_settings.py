"""What Codex is given: its configuration and its credentials."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from envoi_trace_codex.config import ConfigInput, render
from envoi_trace_codex.credentials import find_credentials
from envoi_trace_codex.failures import process_ended, turn_failure
from envoi_trace_codex.options import CodexOptions
from envoi_trace_codex.plugin import envoi_trace_agents

from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import McpServer


def config(options: CodexOptions, **more: object) -> dict:
    given = {
        "model": None, "workspace": "/work space", "hook": "/support/hook.sh", "mark": "t1",
        "mcp_servers": (), "signs_in": True, **more,
    }  # fmt: skip
    return tomllib.loads(render(ConfigInput(options=options, **given)))


def test_the_configuration() -> None:
    server = McpServer(name="tests", command=("/bin/relay", "--say", 'a "b" \\ \x7f é'), tool_timeout_s=61.5)
    made = config(CodexOptions(reasoning_effort="high"), model="gpt-5.5", mcp_servers=(server,))
    assert made["model"] == "gpt-5.5"
    assert made["model_reasoning_effort"] == "high"
    assert made["cli_auth_credentials_store"] == "ephemeral"
    assert made["features"]["unbounded_connection_retries"] is False
    assert made["projects"]["/work space"]["trust_level"] == "untrusted"
    assert made["hooks"]["PostToolUse"][0]["hooks"][0]["command"] == "/support/hook.sh"
    assert "*KEY*" in made["shell_environment_policy"]["exclude"]
    assert made["mcp_servers"]["tests"] == {
        "command": "/bin/relay", "args": ["--say", 'a "b" \\ \x7f é'], "startup_timeout_sec": 60,
        "tool_timeout_sec": 61.5, "required": True,
    }  # fmt: skip
    assert "model_provider" not in made


def test_a_server_of_the_users_own() -> None:
    options = CodexOptions(base_url="http://127.0.0.1:1/v1", request_retries=1)
    made = config(options, signs_in=False)
    provider = made["model_providers"][made["model_provider"]]
    assert provider["base_url"] == "http://127.0.0.1:1/v1"
    assert provider["request_max_retries"] == 1
    assert provider["requires_openai_auth"] is False


# -- credentials ----------------------------------------------------------------------------------


def jwt(claims: dict) -> str:
    return f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.s"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".codex").mkdir()
    return tmp_path


def log_in(home: Path, content: object) -> None:
    (home / ".codex" / "auth.json").write_text(json.dumps(content))


def test_the_login_file_comes_first_then_codex_then_openai(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "third")
    assert find_credentials(CodexOptions()).login == {"type": "apiKey", "apiKey": "third"}
    monkeypatch.setenv("CODEX_API_KEY", "second")
    assert find_credentials(CodexOptions()).login == {"type": "apiKey", "apiKey": "second"}
    log_in(home, {"OPENAI_API_KEY": "first"})
    assert find_credentials(CodexOptions()).login == {"type": "apiKey", "apiKey": "first"}
    assert find_credentials(CodexOptions()).secrets == {"codex API key": "first"}


def test_a_chatgpt_login(home: Path) -> None:
    about = {"chatgpt_account_id": "account", "chatgpt_plan_type": "pro"}
    access = jwt({"exp": 4_000_000_000, "https://api.openai.com/auth": about})
    log_in(home, {"OPENAI_API_KEY": None, "tokens": {"access_token": access, "refresh_token": "r", "id_token": "i"}})
    found = find_credentials(CodexOptions())
    assert found.login == {
        "type": "chatgptAuthTokens", "accessToken": access, "chatgptAccountId": "account", "chatgptPlanType": "pro",
    }  # fmt: skip
    assert set(found.secrets.values()) == {access, "r", "i"}
    assert access not in repr(found)


def test_a_chatgpt_login_goes_to_no_other_server_unless_named(home: Path) -> None:
    log_in(home, {"tokens": {"access_token": "a.b.c", "account_id": "x"}})
    assert find_credentials(CodexOptions(base_url="http://elsewhere/v1")).login is None
    named = CodexOptions(base_url="http://elsewhere/v1", auth_file=str(home / ".codex" / "auth.json"))
    assert (find_credentials(named).login or {})["accessToken"] == "a.b.c"


def test_a_login_that_has_expired(home: Path) -> None:
    log_in(home, {"tokens": {"access_token": jwt({"exp": 1}), "account_id": "x"}})
    with pytest.raises(UsageError, match="has expired") as caught:
        find_credentials(CodexOptions())
    assert "codex login" in (caught.value.mend or "")


def test_no_credentials(home: Path) -> None:
    (spec,) = envoi_trace_agents()
    with pytest.raises(UsageError, match="no credentials for Codex"):
        spec.secrets(CodexOptions())
    assert find_credentials(CodexOptions(base_url="http://127.0.0.1:1")).login is None


@pytest.mark.parametrize("content", ["", "[]", "{", "7", "{}", '{"tokens": []}', '{"OPENAI_API_KEY": 3}', "[" * 9999])
def test_a_named_file_that_is_no_login(home: Path, content: str) -> None:
    (home / "auth.json").write_text(content)
    with pytest.raises(UsageError):
        find_credentials(CodexOptions(auth_file=str(home / "auth.json")))
    with pytest.raises(UsageError, match="there is no"):
        find_credentials(CodexOptions(auth_file=str(home / "missing.json")))


# -- the rest -------------------------------------------------------------------------------------


def test_requirements_name_the_version_and_put_codex_on_path() -> None:
    (spec,) = envoi_trace_agents()
    assert spec.requirements(CodexOptions()).pip == ("openai-codex-cli-bin==0.163.0",)
    assert spec.requirements(CodexOptions(version="0.169.0")).pip == ("openai-codex-cli-bin==0.169.0",)
    (command,) = spec.requirements(CodexOptions(version=">=0.163,<0.170")).commands
    assert "/usr/local/bin/codex" in command


def test_listing_plugins_imports_nothing_heavy() -> None:
    script = (
        "import sys; import envoi_trace_codex.plugin as p; list(p.envoi_trace_agents());"
        "list(p.envoi_trace_part_parsers());"
        "print([n for n in ('asyncio', 'anyio', 'cattrs', 'mcp', 'envoi', 'pyarrow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("info", "retryable"),
    [
        ("internalServerError", True), ("rateLimitExceeded", True), ("usageLimitExceeded", False),
        ("contextWindowExceeded", False), ({"httpConnectionFailed": {"httpStatusCode": 401}}, False),
        ({"httpConnectionFailed": {"httpStatusCode": None}}, True), (None, True), (7, True),
    ],
)  # fmt: skip
def test_failures(info: object, retryable: bool) -> None:
    error = turn_failure({"message": "its own words", "additionalDetails": "and more", "codexErrorInfo": info})
    assert error.message == "Codex: its own words: and more"
    assert error.retryable is retryable


def test_the_last_words_of_a_dead_process() -> None:
    error = process_ended(101, b"one\ntwo\n\nthree\nfour\n")
    assert error.message == "codex app-server ended with exit status 101: two three four"
    assert error.retryable
