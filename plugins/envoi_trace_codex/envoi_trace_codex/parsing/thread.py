"""The parts of one Codex thread, from what happens in it: the heart of all three parsers.

A tool's item is finished before Codex runs its PostToolUse hook, in which the checkpoint is made. So the part
of such an item is held until its hook is done, or until it is certain that there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs

from envoi_trace_codex.parsing.items import (
    HOOKED_TYPES,
    SILENT_TYPES,
    STREAMED_TYPES,
    Item,
    is_known,
    normalised,
    part_of_item,
)
from envoi_trace_codex.parsing.raw_items import CALL_TYPES, OUTPUT_TYPES, RawItem, call_id_of, part_of_call
from envoi_trace_codex.parsing.usage import UsageMeter
from envoi_trace_codex.parsing.values import content_text, text
from envoi_trace_core.domain.drafts import Draft, PartDraft, UnparsedEvent, UsageDraft
from envoi_trace_core.domain.parts import TokenUsage

MAX_CUT_TEXT = 4 * 1024 * 1024
"""Characters of a message that was cut in the middle that are kept."""


@attrs.define
class _Streaming:
    """A message or a thought of which pieces arrived."""

    item: Item
    pieces: list[str] = attrs.field(factory=list)
    size: int = 0


@attrs.define
class ThreadParts:
    """State of one thread. Every method gives the drafts that are complete by then, in order."""

    session_id: str | None = None
    """Of a sub-agent's thread; None for the session's own."""
    meter: UsageMeter = attrs.field(factory=UsageMeter)
    turn_is_open: bool = attrs.field(default=False, init=False)
    _streaming: dict[str, _Streaming] = attrs.field(factory=dict, init=False)
    _running: dict[str, Item] = attrs.field(factory=dict, init=False)
    _held: dict[str, PartDraft] = attrs.field(factory=dict, init=False)
    _in_hook: set[str] = attrs.field(factory=set, init=False)
    _told: set[str] = attrs.field(factory=set, init=False)
    _last_text: str = attrs.field(default="", init=False)
    _calls: dict[str, RawItem] = attrs.field(factory=dict, init=False)
    _calls_of_response: list[str] = attrs.field(factory=list, init=False)
    _began_since_usage: str | None = attrs.field(default=None, init=False)

    # -- turns ------------------------------------------------------------------------------------

    def turn_started(self) -> list[Draft]:
        """A new turn: what is open of an earlier one was cut off."""
        drafts = self.cut_off()
        self.turn_is_open = True
        return drafts

    def turn_ended(self) -> list[Draft]:
        """The turn is over. A command may live on in the background: its item comes when it ends."""
        drafts = self._release_all()
        drafts += self._cut_streams()
        commands = {item_id: item for item_id, item in self._running.items() if item["type"] == "commandExecution"}
        for item_id, item in list(self._running.items()):
            if item_id not in commands:
                drafts += self._interrupted(item)
        self._running = commands
        for call_id, call in list(self._calls.items()):
            if call_id not in self._told and call_id not in commands:
                drafts.append(self._told_part(call_id, part_of_call(call, None)))
        self._calls.clear()
        self._calls_of_response.clear()
        self.turn_is_open = False
        return drafts

    def cut_off(self) -> list[Draft]:
        """Nothing more comes of what is open: the process died, or the session is over."""
        drafts = self.turn_ended()
        for item in self._running.values():
            drafts += self._interrupted(item)
        self._running.clear()
        return drafts

    def _interrupted(self, item: Item) -> list[Draft]:
        part = part_of_item({**item, "status": "interrupted"})
        return [] if part is None else [self._told_part(text(item.get("id")), part)]

    # -- items ------------------------------------------------------------------------------------

    def item_started(self, item: Item) -> list[Draft]:
        """An item began."""
        named, item_id = normalised(item), text(item.get("id"))
        if named["type"] in STREAMED_TYPES:
            self._streaming[item_id] = _Streaming({**named, "text": "", "summary": [], "content": []})
        elif is_known(named) and named["type"] not in SILENT_TYPES:
            self._running[item_id] = named
            self._began_since_usage = item_id
        return []

    def delta(self, item_id: str, piece: str) -> list[Draft]:
        """More of a message or a thought."""
        stream = self._streaming.get(item_id)
        if stream is not None and stream.size < MAX_CUT_TEXT:
            stream.pieces.append(piece)
            stream.size += len(piece)
        return []

    def item_completed(self, item: Item, at: datetime | None, raw: Callable[[], str]) -> list[Draft]:
        """An item is finished."""
        named, item_id = normalised(item), text(item.get("id"))
        self._streaming.pop(item_id, None)
        self._running.pop(item_id, None)
        if not is_known(named):
            return [UnparsedEvent(reason=f"unknown item type {named['type'][:80]!r}", raw=raw())]
        if item_id in self._told or item_id in self._held:
            return []
        part = part_of_item(named)
        if part is None:
            self._told.add(item_id)
            return []
        part = attrs.evolve(part, timestamp=at)
        if named["type"] in HOOKED_TYPES and self.turn_is_open and part.call_id is not None:
            self._held[item_id] = part
            return []
        return [self._told_part(item_id, part)]

    def _told_part(self, item_id: str, part: PartDraft) -> PartDraft:
        self._told.add(item_id)
        if part.part_type in ("text", "reasoning"):
            self._last_text = part.content or ""
        return attrs.evolve(part, session_id=self.session_id)

    def _cut_streams(self) -> list[Draft]:
        drafts: list[Draft] = []
        for item_id, stream in self._streaming.items():
            words = "".join(stream.pieces)
            part = part_of_item({**stream.item, "text": words, "summary": [words] if words else []})
            if part is not None:
                drafts.append(self._told_part(item_id, part))
        self._streaming.clear()
        return drafts

    # -- hooks ------------------------------------------------------------------------------------

    def hook_started(self, run_id: str) -> list[Draft]:
        """A hook began; its run is named after the tool call."""
        call_id = run_id.rpartition(":")[2]
        if call_id in self._held:
            self._in_hook.add(call_id)
        return []

    def hook_completed(self, run_id: str) -> list[Draft]:
        """A hook is done: the checkpoint of its tool call is made."""
        return self._release(run_id.rpartition(":")[2])

    def _release(self, call_id: str) -> list[Draft]:
        self._in_hook.discard(call_id)
        part = self._held.pop(call_id, None)
        return [] if part is None else [self._told_part(call_id, part)]

    def _release_all(self, *, even_in_hook: bool = True) -> list[Draft]:
        drafts: list[Draft] = []
        for call_id in list(self._held):
            if even_in_hook or call_id not in self._in_hook:
                drafts += self._release(call_id)
        return drafts

    # -- raw items --------------------------------------------------------------------------------

    def raw_item(self, item: RawItem, at: datetime | None) -> list[Draft]:
        """What the model gave, or got: a part only if no item tells the same."""
        kind = text(item.get("type"))
        if kind in CALL_TYPES:
            self._calls[call_id_of(item)] = item
            self._calls_of_response.append(call_id_of(item))
            return []
        if kind in OUTPUT_TYPES:
            return self._raw_output(item, at)
        if kind == "reasoning" or (kind == "message" and item.get("role") == "assistant"):
            return self._raw_text(item, kind, at)
        return []

    def _raw_output(self, output: RawItem, at: datetime | None) -> list[Draft]:
        call_id = call_id_of(output)
        drafts = self._release(call_id)
        call = self._calls.pop(call_id, None)
        if call_id in self._told or call_id in self._running:
            return drafts
        if call is not None and text(call.get("name")) == "exec":
            drafts += self._release_all(even_in_hook=False)
        told = call or {"type": output.get("type"), "call_id": call_id, "name": output.get("name") or "unknown"}
        return [*drafts, self._told_part(call_id, attrs.evolve(part_of_call(told, output), timestamp=at))]

    def _raw_text(self, item: RawItem, kind: str, at: datetime | None) -> list[Draft]:
        """A message or a thought: told by an item already, but for rollouts of old versions."""
        words = content_text(item.get("content" if kind == "message" else "summary"))
        item_id = text(item.get("id"))
        if item_id in self._streaming or (item_id and item_id in self._told) or words == self._last_text:
            return []
        named = normalised({"type": "agentMessage" if kind == "message" else kind, "id": item_id, "text": words})
        part = part_of_item(named)
        return [] if part is None else [self._told_part(item_id, attrs.evolve(part, timestamp=at))]

    # -- usage ------------------------------------------------------------------------------------

    def response_completed(self, response_id: Any, usage: Any) -> list[Draft]:
        """A model response is whole: its usage goes to its last tool call, else to the newest part."""
        last_call = self._calls_of_response[-1] if self._calls_of_response else None
        self._calls_of_response.clear()
        return self._usage(self.meter.response(response_id, usage), last_call)

    def total_usage(self, total: Any, last: Any) -> list[Draft]:
        """Codex told the thread's sum: its tools are done."""
        drafts = self._release_all(even_in_hook=False)
        newest, self._began_since_usage = self._began_since_usage, None
        return drafts + self._usage(self.meter.total(total, last), newest if newest in self._running else None)

    def _usage(self, usage: TokenUsage | None, call_id: str | None) -> list[Draft]:
        return [] if usage is None else [UsageDraft(usage=usage, call_id=call_id)]
