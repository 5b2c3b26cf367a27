"""What OpenCode says when it fails, as an `AgentError` with its own words."""

from __future__ import annotations

from envoi_trace_core.errors import AgentError
from envoi_trace_opencode.position import DriverEvent


def turn_failure(event: DriverEvent) -> AgentError:
    """The error of a turn that failed."""
    words = event.message or "the turn failed without a word"
    return AgentError(f"OpenCode: {words}", mend=_mend(words), retryable=event.is_retryable)


def start_failure(event: DriverEvent) -> AgentError:
    """OpenCode could not be started."""
    return AgentError(f"OpenCode could not be started: {event.message or 'it does not say why'}", retryable=True)


def driver_death(exit_code: int | None, stderr: bytes) -> AgentError:
    """The process that drives it is dead."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    how = "was killed" if exit_code is None or exit_code > 128 else f"ended with exit status {exit_code}"
    last_words = " ".join(lines[-3:])[-2000:]
    return AgentError(f"the driver of OpenCode {how}" + (f": {last_words}" if last_words else ""), retryable=True)


def silent(timeout_s: float) -> AgentError:
    """It does not come up."""
    return AgentError(f"OpenCode was not ready within {timeout_s:.0f} s", retryable=True)


def _mend(words: str) -> str | None:
    lowered = words.lower()
    if any(word in lowered for word in ("api key", "unauthorized", "authentication", "invalid x-api-key")):
        return "check the provider's key"
    if "model" in lowered and "not found" in lowered:
        return "check --model PROVIDER/MODEL and --agent-opt base_url="
    return None
