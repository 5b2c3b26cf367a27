"""What Codex says when it fails, as an `AgentError` with its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoi_trace_codex.parsing.values import integer, mapping, text
from envoi_trace_core.errors import AgentError

_MENDS = {
    "usageLimitExceeded": "wait until the limit is reset, or use another account (--agent-opt auth_file=)",
    "sessionBudgetExceeded": "raise the account's budget",
    "contextWindowExceeded": "start a new trajectory, or use a model with a larger context (--model)",
    "unauthorized": "check CODEX_API_KEY, or sign in again with `codex login`",
    "badRequest": "check --model and --agent-opt base_url=",
    "cyberPolicy": None,
    "sandboxError": None,
}
"""Failures that the same call will meet again, with what mends them."""

_STATUS_KINDS = {400: "badRequest", 401: "unauthorized", 403: "unauthorized", 404: "badRequest"}

MAX_WORDS = 2000


def turn_failure(error: Any) -> AgentError:
    """The error of a failed turn (`TurnError` of the protocol)."""
    told = mapping(error)
    words = ": ".join(filter(None, (text(told.get("message")), text(told.get("additionalDetails")))))
    kind, status = _kind(told.get("codexErrorInfo"))
    kind = _STATUS_KINDS.get(status or 0, kind)
    return AgentError(
        f"Codex: {words[:MAX_WORDS] or 'the turn failed without a word'}",
        mend=_MENDS.get(kind),
        retryable=kind not in _MENDS,
    )


def _kind(info: Any) -> tuple[str, int | None]:
    """`"usageLimitExceeded"`, or `{"httpConnectionFailed": {"httpStatusCode": 401}}`."""
    if isinstance(info, str):
        return text(info), None
    for name, details in mapping(info).items():
        return name, integer(mapping(details).get("httpStatusCode"))
    return "", None


def refused(method: str, error: Mapping[str, Any]) -> AgentError:
    """A request that app-server answered with an error."""
    words = text(error.get("message")) or "no reason given"
    return AgentError(f"Codex refused {method}: {words[:MAX_WORDS]}", retryable="MCP server" in words)


def process_ended(exit_code: int | None, stderr: bytes) -> AgentError:
    """The process is dead."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    last_words = " ".join(lines[-3:])[-MAX_WORDS:]
    how = f"with exit status {exit_code}" if exit_code is not None else "and left no exit status"
    return AgentError(f"codex app-server ended {how}" + (f": {last_words}" if last_words else ""), retryable=True)


def silent(method: str, timeout_s: float) -> AgentError:
    """A request that app-server did not answer."""
    return AgentError(f"Codex did not answer {method} within {timeout_s:g} s", retryable=True)
