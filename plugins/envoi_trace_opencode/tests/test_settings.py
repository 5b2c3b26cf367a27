"""Models, credentials, configuration, positions: what is decided before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from envoi_trace_opencode.config import render
from envoi_trace_opencode.credentials import all_keys, find_key
from envoi_trace_opencode.home import driver_program
from envoi_trace_opencode.options import OpenCodeOptions
from envoi_trace_opencode.plugin import envoi_trace_agents
from envoi_trace_opencode.position import DriverEvent, DriverState, Position
from envoi_trace_opencode.program import OPENCODE, requirements
from envoi_trace_opencode.providers import PROVIDERS, choose

from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import McpServer

BASE = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {name for provider in PROVIDERS.values() for name in provider.variables}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)


def stored(tmp_path: Path, **entries: object) -> Path:
    path = tmp_path / ".local" / "share" / "opencode" / "auth.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(entries))
    return path


def key_for(model: str, **options: str) -> str:
    made = OpenCodeOptions(**options)
    return find_key(made, choose(model, made))


def test_a_model_may_have_slashes() -> None:
    choice = choose("openrouter/anthropic/claude", OpenCodeOptions())
    assert (choice.provider, choice.model, choice.is_custom) == ("openrouter", "anthropic/claude", False)


def test_a_provider_named_apart() -> None:
    choice = choose("org/model", OpenCodeOptions(provider="acme", base_url=BASE))
    assert (choice.provider, choice.model, choice.upstream, choice.is_custom) == ("acme", "org/model", BASE, True)
    assert choose("acme/m", OpenCodeOptions(provider="acme", base_url=BASE)).model == "m"


@pytest.mark.parametrize("model", [None, "", "gpt-5", "/gpt-5", "openai/", "a b/c"])
def test_no_model_and_provider_is_wrong_use_with_an_example(model: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        choose(model, OpenCodeOptions())
    assert "--model anthropic/" in (caught.value.mend or "")


def test_an_unknown_provider_needs_its_server() -> None:
    with pytest.raises(UsageError, match="acme") as caught:
        choose("acme/m", OpenCodeOptions())
    assert "base_url=" in (caught.value.mend or "")
    with pytest.raises(UsageError, match="no URL"):
        choose("acme/m", OpenCodeOptions(base_url="localhost:80"))


def test_keys_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "named.json"
    named.write_text(json.dumps({"anthropic": {"type": "api", "key": "from-named"}}))
    with pytest.raises(UsageError, match="no credentials for the provider anthropic"):
        key_for("anthropic/m")
    stored(tmp_path, anthropic={"type": "api", "key": "from-stored"})
    assert key_for("anthropic/m") == "from-stored"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "from-variable")
    assert key_for("anthropic/m") == "from-variable"
    assert key_for("anthropic/m", auth_file=str(named)) == "from-named"


def test_the_key_for_opencode_goes_to_no_other_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_API_KEY", "zen")
    assert key_for("opencode/m") == "zen"
    assert key_for("acme/m", base_url=BASE) == "zen"  # the user named the server
    with pytest.raises(UsageError):
        key_for("anthropic/m")
    monkeypatch.setenv("ACME_API_KEY", "own")
    assert key_for("acme/m", base_url=BASE) == "own"


def test_a_server_of_ones_own_may_want_no_key() -> None:
    assert key_for("acme/m", base_url=BASE) == ""


def test_a_login_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, anthropic={"type": "oauth", "refresh": "r", "access": "a"})
    with pytest.raises(UsageError, match="a login for anthropic, not a key"):
        key_for("anthropic/m")
    with pytest.raises(UsageError, match="no key for the provider openai"):
        key_for("openai/m", auth_file=str(path))
    with pytest.raises(UsageError, match="there is no"):
        key_for("openai/m", auth_file=str(tmp_path / "none.json"))
    path.write_text("{")
    with pytest.raises(UsageError, match="is no JSON"):
        key_for("openai/m", auth_file=str(path))


def test_every_key_is_to_be_redacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", "acme-secret")
    monkeypatch.setenv("TINY_API_KEY", "1")
    stored(tmp_path, anthropic={"type": "api", "key": "stored-secret"})
    assert {"acme-secret", "stored-secret"} <= set(all_keys(OpenCodeOptions()).values())
    assert "1" not in all_keys(OpenCodeOptions()).values()


def test_the_configuration_waits_for_nobody_and_holds_no_secret() -> None:
    server = McpServer(name="tests", command=("python", "bridge"), tool_timeout_s=900)
    config = render(choose("acme/m", OpenCodeOptions(base_url=BASE)), "/x/hook.js", (server,))
    assert config["permission"]["*"] == "allow"
    assert "ask" not in config["permission"].values()
    assert config["mcp"]["tests"]["timeout"] == 900_000
    assert config["provider"]["acme"]["npm"] == "@ai-sdk/openai-compatible"
    assert config["plugin"] == ["file:///x/hook.js"]
    assert "npm" not in render(choose("openai/m", OpenCodeOptions()), "/x", ())["provider"]["openai"]


def test_what_an_image_gets() -> None:
    assert requirements(OpenCodeOptions()).npm == (f"opencode-ai@{OPENCODE.tested_version}",)
    assert requirements(OpenCodeOptions(version="1.18.40")).npm == ("opencode-ai@1.18.40",)


def test_positions() -> None:
    position = Position("0a1b2c3d", 2, 77)
    assert Position.parse(str(position)) == position
    assert position.next_process() == Position("0a1b2c3d", 3, 0)
    assert [Position.parse(text) for text in (None, "", "opencode-1:2", "codex-0a1b2c3d-1:2")] == [None] * 4


def test_the_drivers_words() -> None:
    told = {"turn_id": "t", "status": "failed", "error": {"message": "no", "retryable": True}}
    line = json.dumps({"type": "envoi.turn.ended", "properties": told}).encode()
    event = DriverEvent.parse(line)
    assert (event.kind, event.turn_id, event.status, event.message, event.is_retryable) == (
        "turn.ended", "t", "failed", "no", True,
    )  # fmt: skip
    for strange in (b"", b"{", b'{"type": "envoi.x"}', b'{"type": "envoi.x", "properties": 3}', b'{"id":1}'):
        assert DriverEvent.parse(strange) == DriverEvent(kind="")
    assert DriverState.parse(b'{"turn_id": 3, "turn_ended_at": -1}') == DriverState()


def test_the_agents_own_check_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    (spec,) = envoi_trace_agents()
    with pytest.raises(UsageError):
        spec.check(None, OpenCodeOptions())
    with pytest.raises(UsageError):
        spec.check("openai/m", OpenCodeOptions())
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    spec.check("openai/m", OpenCodeOptions())


def test_the_plugin_module_is_light() -> None:
    heavy = "{'anyio', 'cattrs', 'httpx'}"
    code = f"import sys, envoi_trace_opencode.plugin; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_driver_is_the_same_bytes_each_time_and_needs_the_standard_library_only() -> None:
    assert driver_program() == driver_program()
    folder = Path(__file__).parent.parent / "envoi_trace_opencode" / "driver"
    code = f"import sys; sys.path.insert(0, {str(folder.parent)!r}); import driver.main, driver.archive; print('fine')"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fine"
