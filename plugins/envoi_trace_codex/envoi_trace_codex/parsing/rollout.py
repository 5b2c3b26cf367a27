"""A rollout file, as Codex keeps one under `sessions/` for every thread.

Newer versions (seen: 0.163, 0.169) write finished items, raw items and a record of each response's usage; older
ones raw items and a running sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from envoi_trace_codex.parsing.thread import ThreadParts
from envoi_trace_codex.parsing.values import MALFORMED, load, mapping, moment_of_text, text
from envoi_trace_core.domain.drafts import Draft, NativeEvent, UnparsedEvent

_SILENT = frozenset({"session_meta", "turn_context", "world_state", "compacted", "session_state", "ghost_snapshot"})
_TURN_ENDS = frozenset({"task_complete", "turn_complete", "turn_aborted"})


@attrs.define
class RolloutParser:
    """Parts of one rollout file."""

    _thread: ThreadParts = attrs.field(factory=ThreadParts, init=False)

    def feed(self, event: NativeEvent) -> Sequence[Draft]:
        """The drafts that one line completes."""
        try:
            line = mapping(load(event.raw))
            return self._line(event, line, mapping(line.get("payload")), moment_of_text(line.get("timestamp")))
        except MALFORMED as error:
            return [UnparsedEvent(reason=f"no JSON, or cut: {type(error).__name__}", raw=event.raw)]

    def finish(self) -> Sequence[Draft]:
        """What was open when the file ended."""
        return self._thread.cut_off()

    def _line(
        self, event: NativeEvent, line: Mapping[str, Any], payload: Mapping[str, Any], at: datetime | None
    ) -> list[Draft]:
        kind = text(line.get("type"))
        match kind:
            case "response_item":
                return self._thread.raw_item(payload, at)
            case "event_msg":
                return self._event_message(event, payload, at)
            case "token_usage_record":
                return self._thread.response_completed(payload.get("response_id"), payload.get("usage"))
        return [] if kind in _SILENT else [UnparsedEvent(reason=f"unknown line {kind[:80]!r}", raw=event.raw)]

    def _event_message(self, event: NativeEvent, payload: Mapping[str, Any], at: datetime | None) -> list[Draft]:
        kind = text(payload.get("type"))
        if kind in ("task_started", "turn_started"):
            drafts = self._thread.turn_started()
            self._thread.turn_is_open = False  # no hooks are told here: nothing is to be waited for
            return drafts
        if kind in _TURN_ENDS:
            return self._thread.turn_ended()
        if kind == "item_completed":
            return self._thread.item_completed(mapping(payload.get("item")), at, lambda: event.raw)
        if kind == "token_count":
            info = mapping(payload.get("info"))
            return self._thread.total_usage(info.get("total_token_usage"), info.get("last_token_usage"))
        return []  # the same once more, for the terminal's display
