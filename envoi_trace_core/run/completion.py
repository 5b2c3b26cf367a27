"""A draft, completed: the part that is recorded of it."""

from __future__ import annotations

from envoi_trace_core.domain.drafts import NativeEvent, PartDraft
from envoi_trace_core.domain.parts import EnvoiCall, Part, RepoCheckpoint

MAX_SUMMARY_CHARS = 160


def part_of(
    event: NativeEvent,
    ordinal: int,
    draft: PartDraft,
    *,
    part: int,
    turn: int,
    git_commit: str | None,
    repo_checkpoint: RepoCheckpoint | None = None,
    patch: str | None = None,
    envoi_calls: tuple[EnvoiCall, ...] = (),
) -> Part:
    """The part number `part`, made of a draft that `event` gave as its `ordinal`-th."""
    return Part(
        part=part,
        turn=turn,
        session_id=draft.session_id or event.session_id,
        timestamp=draft.timestamp or event.received_at,
        duration_ms=draft.duration_ms,
        event_index=event.index,
        draft_ordinal=ordinal,
        part_type=draft.part_type,
        role=draft.role,
        item_type=draft.item_type,
        summary=draft.summary or _summary(draft),
        content=draft.content,
        tool_name=draft.tool_name,
        tool_status=draft.tool_status,
        tool_input=draft.tool_input,
        tool_output=draft.tool_output,
        tool_error=draft.tool_error,
        tool_exit_code=draft.tool_exit_code,
        git_commit=git_commit,
        repo_checkpoint=repo_checkpoint,
        patch=patch,
        envoi_calls=envoi_calls,
    )


def _summary(draft: PartDraft) -> str:
    """The first line of what there is."""
    text = draft.content or draft.tool_input or draft.tool_output or draft.tool_error or ""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= MAX_SUMMARY_CHARS else line[: MAX_SUMMARY_CHARS - 1] + "…"
