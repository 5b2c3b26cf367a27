"""The script agent's native events to parts. The events are described in `player/main.py`.

An item becomes a part when it is completed: what it was about comes from its start, its text and its output from
its deltas. A player that was killed may tell the same item again after its restart: it is known by its id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft, UnparsedEvent, UsageDraft
from envoi_trace_core.domain.parts import PartType, TokenUsage

JsonObject = dict[str, Any]

PART_TYPES: dict[str, PartType] = {
    "reasoning": "reasoning",
    "message": "text",
    "command": "tool",
    "tool_call": "tool",
    "file_write": "patch",
    "file_patch": "patch",
}
"""What each kind of item becomes."""
TOOL_NAMES = {"command": "shell", "tool_call": "run_tests", "file_write": "write", "file_patch": "apply_patch"}
TOOL_INPUTS = {
    "command": ("command", "timeout_s"),
    "file_write": ("path",),
    "file_patch": ("patch",),
}
SILENT_EVENTS = frozenset(
    {
        "session.started",
        "turn.started",
        "turn.completed",
        "turn.interrupted",
        "turn.failed",
        "error",
        "hook.failed",
    }
)
"""Events that are understood, and make no part."""
TOKEN_FIELDS = ("input", "cached_input", "output", "reasoning", "total")
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
SUMMARY_CHARS = 160


@attrs.define(kw_only=True)
class _Item:
    """An item that was started and is not yet complete."""

    id: str
    kind: str
    about: JsonObject
    started_at: datetime | None = None
    is_repeat: bool = False
    """Whether it was complete before: the player was killed, and did its work again."""
    text: list[str] = attrs.field(factory=list)
    output: list[str] = attrs.field(factory=list)


class _UnreadableError(Exception):
    """Why an event can't be understood."""


class ScriptParser:
    """Makes parts of the events of one session."""

    def __init__(self) -> None:
        self._open: dict[str, _Item] = {}
        self._seen: set[str] = set()
        """Ids of items and of usage that drafts were made of."""

    def feed(self, event: NativeEvent) -> Sequence[Draft]:
        """The drafts that this event completes."""
        try:
            return self._read(_load(event.raw))
        except _UnreadableError as reason:
            return [UnparsedEvent(reason=str(reason), raw=event.raw)]

    def finish(self) -> Sequence[Draft]:
        """What was started and never completed, as interrupted."""
        left, self._open = list(self._open.values()), {}
        drafts: list[Draft] = []
        for item in left:
            if not item.is_repeat:
                self._seen.add(item.id)
                drafts.append(_part(item, {"status": "interrupted"}, None))
        return drafts

    def _read(self, event: JsonObject) -> Sequence[Draft]:
        match event.get("type"):
            case "item.started":
                self._start(event)
            case "item.delta":
                self._join(event)
            case "item.completed":
                return self._complete(event)
            case "usage":
                return self._usage(event)
            case str(kind) if kind in SILENT_EVENTS:
                pass
            case kind:
                raise _UnreadableError(f"unknown event type {str(kind)[:80]!r}")
        return []

    def _start(self, event: JsonObject) -> None:
        item = _item(event)
        found = _Item(id=item["id"], kind=item["kind"], about=item, started_at=_timestamp(event))
        found.is_repeat = found.id in self._seen
        self._open.pop(found.id, None)  # started again after a kill: what was told of the first try is void
        self._open[found.id] = found

    def _join(self, event: JsonObject) -> None:
        item = self._open.get(_text(event, "item_id"))
        if item is None:
            raise _UnreadableError("a delta of an item that was not started, or is complete")
        pieces = {"text": item.text, "output": item.output}.get(_text(event, "field"))
        if pieces is None:
            raise _UnreadableError("a delta of an unknown field")
        pieces.append(_text(event, "text"))

    def _complete(self, event: JsonObject) -> Sequence[Draft]:
        item = _item(event)
        found = self._open.pop(item["id"], None)
        if item["id"] in self._seen:
            return []
        self._seen.add(item["id"])
        if found is None or found.kind != item["kind"]:
            found = _Item(id=item["id"], kind=item["kind"], about={})
        return [_part(found, item, _timestamp(event))]

    def _usage(self, event: JsonObject) -> Sequence[Draft]:
        usage_id, item_id = _text(event, "usage_id"), _text(event, "item_id")
        counts = {name: _number(event, f"{name}_tokens", INT64_MAX) for name in TOKEN_FIELDS}
        cost_usd = _cost(event)
        if usage_id in self._seen:
            return []
        self._seen.add(usage_id)
        usage = None
        if any(count is not None for count in counts.values()):
            known = {name: count or 0 for name, count in counts.items()}
            if counts["total"] is None:
                known["total"] = min(known["input"] + known["output"], INT64_MAX)
            usage = TokenUsage(**known)
        return [UsageDraft(usage=usage, cost_usd=cost_usd, call_id=item_id)]


# -- items to parts -------------------------------------------------------------------------------


def _part(item: _Item, end: JsonObject, at: datetime | None) -> PartDraft:
    part_type = PART_TYPES[item.kind]
    duration_ms = end.get("duration_ms")
    draft = PartDraft(
        part_type=part_type,
        item_type=item.kind,
        call_id=item.id,
        timestamp=at,
        duration_ms=duration_ms if _is_count(duration_ms, INT64_MAX) else None,
    )
    if part_type in ("reasoning", "text"):
        text = "".join(item.text)
        return attrs.evolve(draft, content=text, summary=_line(text))
    status = _status(end)
    draft = attrs.evolve(
        draft,
        tool_name=TOOL_NAMES[item.kind],
        tool_status=status,
        tool_input=_input(item),
        tool_output=_output(item, end),
        tool_error=_error(item, end),
        tool_exit_code=_exit_code(end),
        may_change_files=True,
    )
    about = _about(item, end)
    said = f": {_line(draft.tool_error)}" if draft.tool_error else ""
    outcome = "" if status == "completed" else f" ({status}{said})"
    if part_type == "patch":
        draft = attrs.evolve(draft, content=about + outcome)
    return attrs.evolve(draft, summary=_line(about, SUMMARY_CHARS - len(outcome[:80])) + outcome[:80])


def _status(end: JsonObject) -> str:
    status = end.get("status")
    return status if status in ("completed", "interrupted") else "failed"


def _input(item: _Item) -> str | None:
    if item.kind == "tool_call":
        value = item.about.get("arguments")
        return None if value is None else json.dumps(value, ensure_ascii=False)
    value = {name: item.about[name] for name in TOOL_INPUTS[item.kind] if name in item.about}
    return json.dumps(value, ensure_ascii=False) if value else None


def _output(item: _Item, end: JsonObject) -> str | None:
    text = "".join(item.output)
    said = end.get("output")
    if isinstance(said, str):
        text += said
    cut = end.get("cut_chars")
    if _is_count(cut, INT64_MAX) and cut:
        text += f"\n[{cut} characters more were cut]"
    return text if text or item.kind == "command" else None


def _error(item: _Item, end: JsonObject) -> str | None:
    error = end.get("error")
    if isinstance(error, str):
        return error
    if end.get("status") == "timed_out":
        return f"killed after its timeout of {item.about.get('timeout_s')} s"
    if item.kind == "tool_call" and _status(end) == "failed":
        return "".join(item.output) or None
    return None


def _exit_code(end: JsonObject) -> int | None:
    code = end.get("exit_code")
    return code if _is_count(code, INT32_MAX) else None


def _about(item: _Item, end: JsonObject) -> str:
    about = item.about
    if item.kind == "command":
        return f"$ {about.get('command', '?')}"
    if item.kind == "file_write":
        size = end.get("size_bytes")
        return f"write {about.get('path', '?')}" + (f" ({size} bytes)" if _is_count(size, INT64_MAX) else "")
    if item.kind == "file_patch":
        paths = about.get("paths")
        names = [name for name in paths if isinstance(name, str)] if isinstance(paths, list) else []
        return f"patch {', '.join(names) or '?'}"
    arguments = about.get("arguments")
    path = arguments.get("path") if isinstance(arguments, dict) else None
    return f"run_tests {path or '(all)'}"


def _line(text: str, length: int = SUMMARY_CHARS) -> str:
    """The first line that is not empty, cut."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= length else line[: length - 1] + "…"


# -- reading what may be anything -----------------------------------------------------------------


def _load(raw: str) -> JsonObject:
    try:
        value = json.loads(raw)
        if "\\u" in raw:  # an escaped lone surrogate can't be stored as UTF-8
            text = json.dumps(value, ensure_ascii=False)
            value = json.loads(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise _UnreadableError(f"no JSON: {str(error)[:80]}") from None
    if not isinstance(value, dict):
        raise _UnreadableError("an event is a JSON object")
    return value


def _item(event: JsonObject) -> JsonObject:
    item = event.get("item")
    if not isinstance(item, dict):
        raise _UnreadableError("an item is a JSON object")
    if _text(item, "kind") not in PART_TYPES:
        raise _UnreadableError(f"unknown kind of item {item['kind'][:80]!r}")
    _text(item, "id")
    return item


def _text(holder: JsonObject, name: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise _UnreadableError(f"{name!r} is no text")
    return value


def _is_count(value: object, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= largest


def _number(holder: JsonObject, name: str, largest: int) -> int | None:
    value = holder.get(name)
    if value is None:
        return None
    if not _is_count(value, largest):
        raise _UnreadableError(f"{name!r} is no count")
    assert isinstance(value, int)
    return value


def _cost(event: JsonObject) -> float | None:
    value = event.get("cost_usd")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e12:
        raise _UnreadableError("'cost_usd' is no amount")
    return float(value)


def _timestamp(event: JsonObject) -> datetime | None:
    value = event.get("at")
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return at.astimezone(UTC) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
