"""Which credentials Codex gets: a login file of the user's, else an API key from the environment.

Either goes to app-server by `account/login/start` and stays in its memory: nothing of it is written in the sandbox.
Of a ChatGPT login only the access token goes there, never the token that renews it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_codex.options import CodexOptions
from envoi_trace_codex.parsing.values import integer, mapping, text
from envoi_trace_core.agents.credentials import first_variable
from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import Carried

KEY_VARIABLES = ("CODEX_API_KEY", "OPENAI_API_KEY")
DEFAULT_AUTH_FILE = "~/.codex/auth.json"
MAX_AUTH_BYTES = 1024 * 1024
LOG_IN = "sign in again with `codex login`"
CLAIMS = "https://api.openai.com/auth"


@attrs.frozen(kw_only=True)
class Credentials:
    """What Codex signs in with; without a login, a server that asks for none."""

    login: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    """The parameters of `account/login/start`."""
    secrets: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """Every value that must never be written, by a name for it."""


def find_credentials(options: CodexOptions) -> Credentials:
    """Look for credentials in their order: the login file, CODEX_API_KEY, OPENAI_API_KEY.

    A ChatGPT login goes to a server other than OpenAI's only when its file is named.

    Raises:
        UsageError: There are none, or the named file can't be used.
    """
    named = bool(options.auth_file)
    path = Path(options.auth_file or DEFAULT_AUTH_FILE).expanduser()
    content = _read(path, named=named)
    key, tokens = text(content.get("OPENAI_API_KEY")).strip(), mapping(content.get("tokens"))
    if text(tokens.get("access_token")) and (named or not options.base_url):
        return _chatgpt_login(path, tokens)
    if key:
        return _api_key(key)
    if named:
        raise UsageError(f"{path} holds neither an API key nor a login", mend=LOG_IN)
    variable = first_variable(KEY_VARIABLES)
    if variable is not None:
        return _api_key(variable[1])
    if options.base_url:
        return Credentials()
    raise UsageError(
        f"no credentials for Codex: there is no login in {path}, and neither {' nor '.join(KEY_VARIABLES)} is set",
        mend="sign in with `codex login`, or set CODEX_API_KEY",
    )


def carried(options: CodexOptions) -> Carried:
    """The same credentials for an orchestrator on another machine; of a login not the token that renews it.

    Raises:
        UsageError: There are none, or the named file can't be used.
    """
    login = find_credentials(options).login
    if login is None:
        return Carried()
    word = options.auth_file or DEFAULT_AUTH_FILE
    if login["type"] == "apiKey":
        if not options.auth_file:
            return Carried(variables={KEY_VARIABLES[0]: login["apiKey"]})
        return Carried(files={word: json.dumps({"OPENAI_API_KEY": login["apiKey"]})})
    tokens = mapping(_read(Path(word).expanduser(), named=True).get("tokens"))
    kept = {name: text(tokens.get(name)) for name in ("access_token", "id_token", "account_id")}
    ends = integer(_claims(kept["access_token"]).get("exp"))
    until = f" at {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC" if ends is not None else ""
    return Carried(
        files={word: json.dumps({"tokens": kept})},
        notes=(f"the Codex login can't be renewed elsewhere: when it ends{until}, the agent stops working",),
    )


def _read(path: Path, *, named: bool) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            return mapping(json.loads(file.read(MAX_AUTH_BYTES)))
    except FileNotFoundError:
        if not named:
            return {}
        raise UsageError(f"there is no {path}", mend="sign in with `codex login`, or name another auth_file") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, OSError) else "it is no JSON"
        raise UsageError(f"{path} can't be used: {reason}", mend=LOG_IN) from error


def _api_key(key: str) -> Credentials:
    return Credentials(login={"type": "apiKey", "apiKey": key}, secrets={"codex API key": key})


def _chatgpt_login(path: Path, tokens: Mapping[str, Any]) -> Credentials:
    access = text(tokens.get("access_token"))
    claims = _claims(access)
    expires_at = integer(claims.get("exp"))
    if expires_at is not None and expires_at <= time.time():
        raise UsageError(f"the login in {path} has expired", mend="run `codex` once to renew it, or `codex login`")
    about = {**mapping(_claims(text(tokens.get("id_token"))).get(CLAIMS)), **mapping(claims.get(CLAIMS))}
    login = {
        "type": "chatgptAuthTokens",
        "accessToken": access,
        "chatgptAccountId": text(tokens.get("account_id")) or text(about.get("chatgpt_account_id")),
    }
    plan = text(about.get("chatgpt_plan_type"))
    names = ("access_token", "refresh_token", "id_token")
    secrets = {f"codex {name}": text(tokens.get(name)) for name in names if text(tokens.get(name))}
    return Credentials(login={**login, "chatgptPlanType": plan} if plan else login, secrets=secrets)


def _claims(token: str) -> Mapping[str, Any]:
    """What a JSON web token says, not verified: only its expiry and plan are looked at."""
    body = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        return mapping(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))
    except (ValueError, RecursionError):
        return {}
