"""The one key that the model needs: from a named auth.json, a variable, or OpenCode's own auth.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from envoi_trace_core.agents.credentials import first_variable
from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import Carried
from envoi_trace_opencode.options import OpenCodeOptions
from envoi_trace_opencode.providers import PROVIDERS, ModelChoice

DEFAULT_AUTH_FILE = "~/.local/share/opencode/auth.json"
MAX_AUTH_BYTES = 1024 * 1024
MIN_KEY_CHARS = 8
"""What is shorter is no key; replacing it wherever it stands would spoil a trace."""


def find_key(options: OpenCodeOptions, choice: ModelChoice) -> str:
    """The provider's key; empty for a server of the user's own that is given none.

    Raises:
        UsageError: There is none, or the file that is named can't be used.
    """
    if options.auth_file:
        return _from_file(Path(options.auth_file).expanduser(), choice.provider, is_named=True) or ""
    variable = first_variable(choice.variables)
    if variable is not None:
        return variable[1]
    data_home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    if not options.base_url:
        stored = _from_file(data_home / "opencode" / "auth.json", choice.provider, is_named=False)
        if stored:
            return stored
        raise UsageError(
            f"no credentials for the provider {choice.provider}: {' and '.join(choice.variables)} "
            f"{'are' if len(choice.variables) > 1 else 'is'} not set, and OpenCode has stored none",
            mend=f"set {choice.variables[0]}, or sign in with `opencode auth login`",
        )
    return ""


def all_keys(options: OpenCodeOptions) -> dict[str, str]:
    """Every key that a run with these options could use, by a name for it.

    The model is not among the options, so these are all keys of known providers, and those of the files.
    """
    names = {name for provider in PROVIDERS.values() for name in provider.variables}
    names |= {name for name in os.environ if name.endswith("_API_KEY")}
    found = {name: os.environ[name].strip() for name in sorted(names) if os.environ.get(name, "").strip()}
    data_home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    path = Path(options.auth_file).expanduser() if options.auth_file else data_home / "opencode" / "auth.json"
    for provider, entry in _load(path, is_named=bool(options.auth_file)).items():
        if isinstance(entry, dict) and isinstance(entry.get("key"), str) and entry["key"].strip():
            found[f"opencode key of {provider}"] = entry["key"].strip()
    return {name: value for name, value in found.items() if len(value) >= MIN_KEY_CHARS}


def carried(options: OpenCodeOptions) -> Carried:
    """The same keys for an orchestrator on another machine: variables, and the keys (no logins) of the file.

    Raises:
        UsageError: The file that is named can't be used.
    """
    variables = {name: os.environ[name] for name in all_keys(options) if name in os.environ}
    data_home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    path = Path(options.auth_file).expanduser() if options.auth_file else data_home / "opencode" / "auth.json"
    entries = _load(path, is_named=bool(options.auth_file))
    keys = {name: entry for name, entry in entries.items() if isinstance(entry, dict) and entry.get("type") == "api"}
    files = {options.auth_file or DEFAULT_AUTH_FILE: json.dumps(keys)} if keys else {}
    return Carried(variables=variables, files=files)


def _from_file(path: Path, provider: str, *, is_named: bool) -> str | None:
    entry = _load(path, is_named=is_named).get(provider)
    entry = entry if isinstance(entry, dict) else {}
    key = entry.get("key")
    if entry.get("type") == "api" and isinstance(key, str) and key.strip():
        return key.strip()
    if entry.get("type") == "oauth":
        raise UsageError(
            f"{path} holds a login for {provider}, not a key: it could not be kept from the agent's shell",
            mend="use an API key of that provider",
        )
    if is_named:
        raise UsageError(f"{path} has no key for the provider {provider}", mend="sign in with `opencode auth login`")
    return None


def _load(path: Path, *, is_named: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content: Any = json.loads(file.read(MAX_AUTH_BYTES))
    except FileNotFoundError:
        if not is_named:
            return {}
        raise UsageError(f"there is no {path}", mend="sign in with `opencode auth login`") from None
    except (OSError, ValueError) as error:
        if not is_named:
            return {}
        reason = "is no JSON" if isinstance(error, ValueError) else str(error)
        raise UsageError(f"{path} can't be used: {reason}", mend="sign in with `opencode auth login`") from error
    return content if isinstance(content, dict) else {}
