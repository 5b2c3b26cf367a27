"""The session's stored messages against what the event stream brought: what is missing is told now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .server import Server
from .stream import EventStream, is_final

LATE_EVENTS_S = 2.0
MAX_DEPTH = 8
LIMITS = ("?limit=50", "?limit=1000", "")


def reconcile(server: Server, stream: EventStream, session_id: str) -> None:
    """Tell every complete part of the session's newest turn, and of its subagents, that was not told.

    Raises:
        ServerError: The server refuses.
        OSError, http.client.HTTPException: The server does not answer.
    """
    stored = list(_stored(server, session_id, depth=0))
    complete = {part["id"] for _message, parts in stored for part in parts}
    stream.wait_final(complete, LATE_EVENTS_S)
    for message, parts in stored:
        missing = [part for part in parts if part["id"] not in stream.final]
        if missing and message.get("id") not in stream.messages:
            stream.tell(_event("message.updated", message, info=message))
        for part in missing:
            stream.tell(_event("message.part.updated", message, part=part))


def _event(kind: str, message: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"type": kind, "properties": {"sessionID": message.get("sessionID"), **properties}, "reconciled": True}


def _stored(server: Server, session_id: str, depth: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The messages since the newest prompt, each with its complete parts."""
    messages = _newest_turn(server, session_id)
    for message in messages:
        info, parts = message.get("info") or {}, message.get("parts") or []
        if info.get("role") != "assistant":
            continue
        for part in parts:
            child = ((part.get("state") or {}).get("metadata") or {}).get("sessionId")
            if part.get("tool") == "task" and child and depth < MAX_DEPTH:
                yield from _stored(server, child, depth + 1)
        yield info, [part for part in parts if is_final(part)]


def _newest_turn(server: Server, session_id: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for limit in LIMITS:
        messages = server.request("GET", f"/session/{session_id}/message{limit}") or []
        prompts = [index for index, message in enumerate(messages) if (message.get("info") or {}).get("role") == "user"]
        if prompts:
            return messages[prompts[-1] :]
    return messages
