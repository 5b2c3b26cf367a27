"""Native events to parts: the one place where a part becomes a fact.

The order is what makes the promise of the design true: the native event is durable in the events log, then
the checkpoint is in the mirror, then the part is in the journal. After a restart the parser is fed the
session's stored events again; drafts that were recorded are known by their event and ordinal.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import attrs

from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft, UnparsedEvent, UsageDraft
from envoi_trace_core.domain.facts import CallsClaimed, EventsUnparsed, PartRecorded, UsageRecorded
from envoi_trace_core.domain.parts import EnvoiCall
from envoi_trace_core.protocols import AgentOutput, PartParser
from envoi_trace_core.repo.repository import CheckpointResult, Repository
from envoi_trace_core.run.budgets import Price
from envoi_trace_core.run.completion import part_of
from envoi_trace_core.run.ledger import Ledger
from envoi_trace_core.trace.events import EventLog
from envoi_trace_core.trace.redact import Redactor

FINISH_ORDINAL = 1_000_000
"""Drafts of `PartParser.finish` are numbered from here on, after those of the session's last event."""

RUN_TESTS_TYPES = ("tool", "tool_result")


@attrs.define(kw_only=True)
class Recorder:
    """Records the events of one session. A new session of the trajectory gets a new recorder."""

    session_id: str
    turn: int
    parser: PartParser
    ledger: Ledger
    events: EventLog
    repository: Repository
    redactor: Redactor
    max_parts: int
    price: Price | None = None
    sandbox_was_lost: bool = False
    """Whether the sandbox in which the stored events happened is gone, and with it their checkpoints."""

    _parts_by_call: dict[str, int] = attrs.field(factory=dict, init=False)
    _early_usage: list[tuple[NativeEvent, int, UsageDraft]] = attrs.field(factory=list, init=False)
    _last_event: NativeEvent | None = attrs.field(default=None, init=False)
    _newest_part: int | None = attrs.field(default=None, init=False)

    async def replay(self, stored: Iterable[NativeEvent]) -> None:
        """Feed the session's stored events again, and record what is missing of them."""
        for event in stored:
            await self._feed(event)
        self.sandbox_was_lost = False

    async def take(self, output: AgentOutput) -> None:
        """Record one event of the agent, with every part that it completes."""
        event = NativeEvent(
            index=self.events.next_index,
            session_id=self.session_id,
            received_at=datetime.now(UTC),
            raw=self.redactor.text(output.raw),
        )
        await self.events.append(event, output.position, hands_back=output.hands_back)
        await self._feed(event)

    async def finish(self) -> None:
        """Record what is still open when the session ends."""
        if self._last_event is not None:
            await self._record_all(self._last_event, self.parser.finish(), FINISH_ORDINAL)
        await self._settle_early_usage()
        await self.claim_calls_left()

    async def claim_calls_left(self) -> None:
        """Give test calls that no part of their own followed to the newest part."""
        left = self.ledger.unclaimed_calls()
        if left and self.ledger.state.part_count:
            part = self.ledger.state.part_count
            await self.ledger.add(CallsClaimed(part=part, call_ids=tuple(call.call_id for call in left)))

    async def _feed(self, event: NativeEvent) -> None:
        self._last_event = event
        await self._record_all(event, self.parser.feed(event), 0)

    async def _record_all(self, event: NativeEvent, drafts: Iterable[Draft], first_ordinal: int) -> None:
        for ordinal, draft in enumerate(drafts, first_ordinal):
            recorded_as = self.ledger.recorded.get((event.index, ordinal))
            if recorded_as is not None:
                self._remember(draft, recorded_as)
            else:
                await self._record(event, ordinal, draft)

    def _remember(self, draft: Draft, part: int) -> None:
        if isinstance(draft, PartDraft):
            self._newest_part = part
            if draft.call_id is not None:
                self._parts_by_call[draft.call_id] = part

    async def _record(self, event: NativeEvent, ordinal: int, draft: Draft) -> None:
        match draft:
            case PartDraft():
                await self._record_part(event, ordinal, draft)
            case UsageDraft():
                await self._record_usage(event, ordinal, draft)
            case UnparsedEvent():
                await self._unparsed(event, ordinal, draft.reason)

    async def _unparsed(self, event: NativeEvent, ordinal: int, reason: str) -> None:
        await self.ledger.add(EventsUnparsed(event_index=event.index, draft_ordinal=ordinal, reason=reason))

    # -- parts ------------------------------------------------------------------------------------

    async def _record_part(self, event: NativeEvent, ordinal: int, draft: PartDraft) -> None:
        number = self.ledger.state.part_count + 1
        if number > self.max_parts:
            return  # Row N is the last one; what came after it stays in the events log.
        if draft.may_change_files and self.sandbox_was_lost:
            await self._unparsed(event, ordinal, "the sandbox was lost before this part's checkpoint was fetched")
            return
        at = draft.timestamp or event.received_at
        result = await self._checkpoint(draft, number, at)
        if result.warning:
            self.ledger.warn(result.warning)
        part = part_of(
            event,
            ordinal,
            self.redactor.value(draft),
            part=number,
            turn=self.turn,
            git_commit=result.commit,
            repo_checkpoint=result.checkpoint,
            patch=result.patch,
            envoi_calls=self._claim(draft),
        )
        await self.ledger.add(PartRecorded(part=part))
        self._remember(draft, number)
        await self._settle_early_usage()

    async def _checkpoint(self, draft: PartDraft, number: int, at: datetime) -> CheckpointResult:
        if not draft.may_change_files:
            return CheckpointResult(commit=self.repository.head, checkpoint=None, patch=None, warning=None)
        return await self.repository.checkpoint(call_id=draft.call_id, part=number, at=at)

    def _claim(self, draft: PartDraft) -> tuple[EnvoiCall, ...]:
        """The test call of a `run_tests` part: the oldest one of the same path, else the oldest."""
        if draft.tool_name != "run_tests" or draft.part_type not in RUN_TESTS_TYPES:
            return ()
        waiting = self.ledger.unclaimed_calls()
        same_path = [call for call in waiting if f'"{call.path}"' in (draft.tool_input or "")]
        return tuple((same_path or waiting)[:1])

    # -- usage ------------------------------------------------------------------------------------

    async def _record_usage(self, event: NativeEvent, ordinal: int, draft: UsageDraft) -> None:
        part = self._newest_part if draft.call_id is None else self._parts_by_call.get(draft.call_id)
        if part is None:
            self._early_usage.append((event, ordinal, draft))
            return
        cost_usd = draft.cost_usd
        if cost_usd is None and self.price is not None and draft.usage is not None:
            cost_usd = self.price.of(draft.usage)
        await self.ledger.add(
            UsageRecorded(
                part=part, usage=draft.usage, cost_usd=cost_usd, event_index=event.index, draft_ordinal=ordinal
            )
        )

    async def _settle_early_usage(self) -> None:
        """Record usage that came before the part it belongs to; at the end of a turn it goes to the newest part."""
        waiting, self._early_usage = self._early_usage, []
        for event, ordinal, draft in waiting:
            await self._record_usage(event, ordinal, draft)

    async def end_turn(self) -> None:
        """Let nothing of the turn wait for a part that does not come."""
        for position, (event, ordinal, draft) in enumerate(self._early_usage):
            self._early_usage[position] = (event, ordinal, attrs.evolve(draft, call_id=None))
        await self._settle_early_usage()
