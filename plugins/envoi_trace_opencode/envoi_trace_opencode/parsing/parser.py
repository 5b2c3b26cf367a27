"""Events of `opencode serve`, as the driver writes them, to parts.

A part of OpenCode's becomes a part of ours when it is complete; a tool becomes two, one when it starts to run and
one when it ends. What the driver says of its own accord (`envoi.*`) makes none, but ends what a dead server left.
Everything is known by its id, so events that are told again, as after a broken stream, change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft, UnparsedEvent, UsageDraft
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_opencode.parsing.kinds import SILENT_EVENTS, SILENT_FAMILIES, SILENT_PARTS
from envoi_trace_opencode.parsing.tools import tool_result, tool_use
from envoi_trace_opencode.parsing.values import (
    INT64_MAX,
    UnreadableError,
    count,
    first_line,
    integer,
    load,
    mapping,
    moment,
    price,
    text,
)


@attrs.define(kw_only=True)
class _Open:
    """A part of OpenCode's that is not complete."""

    part: Mapping[str, Any]
    session_id: str | None
    deltas: list[str] = attrs.field(factory=list)
    """Of a text, since the newest whole one."""


class OpenCodeParser:
    """Makes parts of the events of one session and its subagents."""

    def __init__(self) -> None:
        self._roles: dict[str, str] = {}
        """By message."""
        self._open: dict[str, _Open] = {}
        """By part, in the order in which they began."""
        self._done: set[str] = set()
        """Parts of which nothing more is to be made."""
        self._newest: dict[str, str] = {}
        """By message: the call that the newest part of it has."""

    def feed(self, event: NativeEvent) -> Sequence[Draft]:
        """The drafts that this event completes."""
        try:
            return self._read(load(event.raw), event)
        except UnreadableError as reason:
            return [UnparsedEvent(reason=str(reason), raw=event.raw)]

    def finish(self) -> Sequence[Draft]:
        """What began and never ended, as interrupted."""
        return self._close_all()

    def _read(self, told: Mapping[str, Any], event: NativeEvent) -> Sequence[Draft]:
        kind, properties = text(told.get("type")), mapping(told.get("properties"))
        match kind:
            case "message.updated":
                info = mapping(properties.get("info"))
                self._roles[text(info.get("id"))] = text(info.get("role"))
            case "message.part.updated":
                return self._part(mapping(properties.get("part")), event)
            case "message.part.delta":
                self._delta(properties)
            case "envoi.server.started" | "envoi.server.ended":
                return self._close_all()
            case _ if kind not in SILENT_EVENTS and not kind.startswith(SILENT_FAMILIES):
                raise UnreadableError(f"unknown event type {kind[:80]!r}")
        return []

    # -- parts ------------------------------------------------------------------------------------

    def _part(self, part: Mapping[str, Any], event: NativeEvent) -> Sequence[Draft]:
        kind, part_id, message_id = text(part.get("type")), text(part.get("id")), text(part.get("messageID"))
        if not part_id or not message_id:
            raise UnreadableError("a part without its id")
        if kind in SILENT_PARTS or part_id in self._done or self._roles.get(message_id) == "user":
            return []
        session_id = text(part.get("sessionID"))
        found = _Open(part=part, session_id=session_id if session_id not in ("", event.session_id) else None)
        match kind:
            case "text" | "reasoning":
                return self._text(part_id, found)
            case "tool":
                return self._tool(part_id, found)
            case "step-finish":
                self._done.add(part_id)
                return self._usage(part)
        raise UnreadableError(f"unknown part type {kind[:80]!r}")

    def _text(self, part_id: str, found: _Open) -> Sequence[Draft]:
        times = mapping(found.part.get("time"))
        if found.part.get("synthetic") is True or found.part.get("ignored") is True:
            self._done.add(part_id)
            return []
        if not times:
            if text(found.part.get("messageID")) in self._roles:
                raise UnreadableError("a text of the assistant without its time")
            return []  # a prompt whose message was not told
        if times.get("end") is None:
            self._open[part_id] = found
            return []
        return self._complete_text(part_id, found)

    def _complete_text(self, part_id: str, found: _Open) -> Sequence[Draft]:
        self._close(part_id)
        content = text(found.part.get("text")) + "".join(found.deltas)
        if not content.strip():
            return []
        message_id = text(found.part.get("messageID"))
        self._newest[message_id] = part_id
        times = mapping(found.part.get("time"))
        kind = text(found.part.get("type"))
        draft = PartDraft(
            part_type="reasoning" if kind == "reasoning" else "text",
            item_type=kind,
            summary=first_line(content),
            content=content,
            duration_ms=duration(times),
            timestamp=moment(times.get("end")),
            session_id=found.session_id,
            call_id=part_id,  # only so that the usage finds it, whatever a subagent does meanwhile
        )
        return [draft]

    def _tool(self, part_id: str, found: _Open) -> Sequence[Draft]:
        status = text(mapping(found.part.get("state")).get("status"))
        message_id, call_id = text(found.part.get("messageID")), text(found.part.get("callID"))
        match status:
            case "pending":
                return []
            case "running":
                is_new = part_id not in self._open
                self._open[part_id] = found
                if not is_new:
                    return []
                self._newest[message_id] = call_id
                return [tool_use(found.part, found.session_id)]
            case "completed" | "error":
                self._close(part_id)
                self._newest[message_id] = call_id
                return [tool_result(found.part, found.session_id)]
        raise UnreadableError(f"unknown tool status {status[:80]!r}")

    def _delta(self, properties: Mapping[str, Any]) -> None:
        found = self._open.get(text(properties.get("partID")))
        if found is not None and properties.get("field") == "text":
            found.deltas.append(text(properties.get("delta")))

    def _usage(self, part: Mapping[str, Any]) -> Sequence[Draft]:
        tokens = mapping(part.get("tokens"))
        cost_usd = price(part.get("cost"))
        usage = token_usage(tokens) if tokens else None
        if usage is None and cost_usd is None:
            return []
        call_id = self._newest.get(text(part.get("messageID")))
        return [UsageDraft(usage=usage, cost_usd=cost_usd, call_id=call_id)]

    # -- ends -------------------------------------------------------------------------------------

    def _close(self, part_id: str) -> None:
        self._open.pop(part_id, None)
        self._done.add(part_id)

    def _close_all(self) -> Sequence[Draft]:
        drafts: list[Draft] = []
        for part_id, found in list(self._open.items()):
            if text(found.part.get("type")) == "tool":
                self._close(part_id)
                drafts.append(tool_result(found.part, found.session_id))
            else:
                drafts.extend(self._complete_text(part_id, found))
        return drafts


def duration(times: Mapping[str, Any]) -> int | None:
    """Milliseconds from `start` to `end`."""
    start, end = integer(times.get("start")), integer(times.get("end"))
    return min(end - start, INT64_MAX) if start is not None and end is not None and 0 <= start <= end else None


def token_usage(tokens: Mapping[str, Any]) -> TokenUsage:
    """OpenCode counts what came from the cache beside the input, and reasoning beside the output; we count them in."""
    cache = mapping(tokens.get("cache"))
    cached, reasoning = count(cache.get("read")), count(tokens.get("reasoning"))
    input_tokens = count(tokens.get("input")) + cached + count(cache.get("write"))
    output_tokens = count(tokens.get("output")) + reasoning
    return TokenUsage(
        input=min(input_tokens, INT64_MAX),
        cached_input=cached,
        output=min(output_tokens, INT64_MAX),
        reasoning=reasoning,
        total=count(tokens.get("total")) or min(input_tokens + output_tokens, INT64_MAX),
    )
