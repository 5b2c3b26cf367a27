"""What a part parser makes of native events, before the recorder completes it."""

from __future__ import annotations

from datetime import datetime

import attrs

from envoi_trace_core.domain.parts import PartType, TokenUsage


@attrs.frozen(kw_only=True)
class NativeEvent:
    """One event as the agent emitted it, numbered by the recorder."""

    index: int
    """1-based over the whole trajectory, through all sessions."""
    session_id: str
    received_at: datetime
    raw: str
    """The event's own text, without its line end; valid JSON if the agent was sound, but never assumed."""


@attrs.frozen(kw_only=True)
class PartDraft:
    """A part as its agent tells it: no number, commit or test call yet."""

    part_type: PartType
    role: str = "assistant"
    item_type: str = ""
    summary: str = ""
    """One line; empty lets the recorder take the first line of what there is."""
    content: str | None = None
    tool_name: str | None = None
    """`run_tests` for a call of the harness's tool, whatever prefix the agent gives MCP tools."""
    tool_status: str | None = None
    """`completed`, `failed`, `interrupted`, or `running` for a `tool_use`."""
    tool_input: str | None = None
    """JSON text."""
    tool_output: str | None = None
    tool_error: str | None = None
    tool_exit_code: int | None = None
    duration_ms: int | None = None
    timestamp: datetime | None = None
    """When the part was complete, by the agent's clock; None lets the recorder take the event's arrival."""
    session_id: str | None = None
    """A sub-agent's own session; None for the session that the event came from."""
    call_id: str | None = None
    """The id of the tool call, by which the checkpoint hook's commit is found."""
    may_change_files: bool = False
    """Whether the workspace must be looked at (any tool that may write, any patch)."""


@attrs.frozen(kw_only=True)
class UsageDraft:
    """Token usage and cost of a part that an earlier event, or this one, gave."""

    usage: TokenUsage | None = None
    cost_usd: float | None = None
    call_id: str | None = None
    """The part it belongs to; None for the newest part of the session."""


@attrs.frozen(kw_only=True)
class UnparsedEvent:
    """An event that the parser did not understand, arrived out of order, or was cut: counted, never dropped."""

    reason: str
    raw: str


Draft = PartDraft | UsageDraft | UnparsedEvent
