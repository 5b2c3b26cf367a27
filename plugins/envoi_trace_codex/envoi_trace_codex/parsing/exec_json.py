"""What `codex exec --json` prints: one object a line, items in snake_case, usage once a turn."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from envoi_trace_codex.parsing.thread import ThreadParts
from envoi_trace_codex.parsing.values import MALFORMED, load, mapping, text
from envoi_trace_core.domain.drafts import Draft, NativeEvent, UnparsedEvent

_SILENT = frozenset({"thread.started", "item.updated", "error"})


@attrs.define
class ExecJsonParser:
    """Parts of one `codex exec --json` run; its items carry no time of their own."""

    _thread: ThreadParts = attrs.field(factory=ThreadParts, init=False)

    def feed(self, event: NativeEvent) -> Sequence[Draft]:
        """The drafts that one line completes."""
        try:
            message = load(event.raw)
            kind = text(mapping(message).get("type"))
            item = mapping(mapping(message).get("item"))
            match kind:
                case "item.started":
                    return self._thread.item_started(item)
                case "item.completed":
                    return self._thread.item_completed(item, None, lambda: event.raw)
                case "turn.completed":
                    used = self._thread.response_completed(None, message.get("usage"))
                    return [*self._thread.turn_ended(), *used]
                case "turn.started":
                    return self._turn_started()
                case "turn.failed":
                    return self._thread.turn_ended()
        except MALFORMED as error:
            return [UnparsedEvent(reason=f"no JSON, or cut: {type(error).__name__}", raw=event.raw)]
        return [] if kind in _SILENT else [UnparsedEvent(reason=f"unknown event {kind[:80]!r}", raw=event.raw)]

    def finish(self) -> Sequence[Draft]:
        """What was open when the output ended."""
        return self._thread.cut_off()

    def _turn_started(self) -> list[Draft]:
        drafts = self._thread.turn_started()
        self._thread.turn_is_open = False  # no hooks are told here: nothing is to be waited for
        return drafts
