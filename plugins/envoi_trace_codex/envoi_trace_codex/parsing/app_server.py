"""What `codex app-server` writes to its stdout: notifications, answers, and requests to its client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from envoi_trace_codex.parsing.thread import ThreadParts
from envoi_trace_codex.parsing.values import MALFORMED, load, mapping, moment_of_ms, moment_of_text, text
from envoi_trace_core.domain.drafts import Draft, NativeEvent, UnparsedEvent

_DELTAS = frozenset(
    {
        "item/agentMessage/delta",
        "item/plan/delta",
        "item/reasoning/summaryTextDelta",
        "item/reasoning/textDelta",
    }
)

_SILENT_FAMILIES = (
    "account/",
    "app/",
    "attestation/",
    "autoApprovalReview/",
    "command/",
    "environment/",
    "externalAgentConfig/",
    "fs/",
    "fuzzyFileSearch/",
    "hook/",
    "item/",
    "mcpServer/",
    "model/",
    "modelProvider/",
    "process/",
    "project/",
    "rawResponse",
    "remoteControl/",
    "serverRequest/",
    "skills/",
    "thread/",
    "turn/",
    "windows/",
    "windowsSandbox/",
)
"""Notifications of these families tell of Codex, not of what the agent did; the ones that do are handled."""

_SILENT = frozenset({"configWarning", "deprecationNotice", "error", "guardianWarning", "warning"})


@attrs.define
class AppServerParser:
    """Parts of the threads of one app-server session."""

    _threads: dict[str, ThreadParts] = attrs.field(factory=dict, init=False)

    def feed(self, event: NativeEvent) -> Sequence[Draft]:
        """The drafts that one line of stdout completes."""
        try:
            message = load(event.raw)
        except MALFORMED as error:
            return [UnparsedEvent(reason=f"no JSON, or cut: {type(error).__name__}", raw=event.raw)]
        if not isinstance(message, dict):
            return [UnparsedEvent(reason="not a JSON object", raw=event.raw)]
        method = message.get("method")
        if method is None and ("result" in message or "error" in message):
            return []  # an answer to a request of ours
        if method is None and message.get("type") == "response_item":
            return self._from_rollout(event, message)
        if not isinstance(method, str):
            return [UnparsedEvent(reason="neither a notification nor an answer", raw=event.raw)]
        try:
            return self._notification(event, method, message)
        except MALFORMED as error:
            return [UnparsedEvent(reason=f"malformed {method[:80]}: {type(error).__name__}", raw=event.raw)]

    def finish(self) -> Sequence[Draft]:
        """What was open when the session ended."""
        return [draft for thread in self._threads.values() for draft in thread.cut_off()]

    def _notification(self, event: NativeEvent, method: str, message: Mapping[str, Any]) -> list[Draft]:
        params = mapping(message.get("params"))
        thread = self._thread(event, params)
        item = mapping(params.get("item"))
        run_id = text(mapping(params.get("run")).get("id"))
        match method:
            case "item/started":
                return thread.item_started(item)
            case "item/completed":
                return thread.item_completed(item, _when(params, item, message), lambda: event.raw)
            case "rawResponseItem/completed":
                return thread.raw_item(item, _when(params, item, message))
            case "rawResponse/completed":
                return thread.response_completed(params.get("responseId"), params.get("usage"))
            case "thread/tokenUsage/updated":
                usage = mapping(params.get("tokenUsage"))
                return thread.total_usage(usage.get("total"), usage.get("last"))
            case "hook/started":
                return thread.hook_started(run_id)
            case "hook/completed":
                return thread.hook_completed(run_id)
            case "turn/started":
                return thread.turn_started()
            case "turn/completed":
                return thread.turn_ended()
        if method in _DELTAS:
            return thread.delta(text(params.get("itemId")), text(params.get("delta")))
        if method in _SILENT or method.startswith(_SILENT_FAMILIES):
            return []
        return [UnparsedEvent(reason=f"unknown notification {method[:80]!r}", raw=event.raw)]

    def _from_rollout(self, event: NativeEvent, line: Mapping[str, Any]) -> list[Draft]:
        """A raw item of a resumed thread, which the session reads from the thread's rollout file."""
        at = moment_of_text(line.get("timestamp"))
        return self._thread(event, {}).raw_item(mapping(line.get("payload")), at)

    def _thread(self, event: NativeEvent, params: Mapping[str, Any]) -> ThreadParts:
        thread_id = text(params.get("threadId")) or event.session_id
        if thread_id not in self._threads:
            own = thread_id == event.session_id
            self._threads[thread_id] = ThreadParts(session_id=None if own else thread_id)
        return self._threads[thread_id]


def _when(params: Mapping[str, Any], item: Mapping[str, Any], message: Mapping[str, Any]) -> datetime | None:
    """When it was complete, by the agent's clock."""
    for value in (item.get("completedAtMs"), params.get("completedAtMs"), message.get("emittedAtMs")):
        moment = moment_of_ms(value)
        if moment is not None:
            return moment
    return None
