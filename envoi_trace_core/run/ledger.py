"""The trajectory's facts on their way: into the journal, into the fold, out to whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import attrs

from envoi_trace_core.domain.facts import EventsUnparsed, Fact, PartRecorded, UsageRecorded
from envoi_trace_core.domain.parts import EnvoiCall
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import Journal


@attrs.define(kw_only=True)
class Ledger:
    """One writer's view of a trajectory: a fact is durable, then folded, then told."""

    journal: Journal
    state: TraceState
    recorded: dict[tuple[int, int], int]
    """Drafts that are recorded: (event index, draft ordinal) to part number, 0 for what is no part."""
    on_fact: Callable[[Fact], None]
    """Told of each fact once it is durable; must not wait (it wakes snapshots, evaluations, the display)."""
    warn: Callable[[str], None]

    _lock: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    async def add(self, fact: Fact) -> None:
        """Make a fact durable and let it count."""
        async with self._lock:  # what is durable first counts first: evaluations arrive beside parts
            await self.journal.append(fact)
            self.state.apply(fact)
        note_recorded(self.recorded, fact)
        self.on_fact(fact)

    def unclaimed_calls(self) -> Sequence[EnvoiCall]:
        """Test calls that ended and that no part holds yet, oldest first."""
        return self.state.unclaimed_calls


def note_recorded(recorded: dict[tuple[int, int], int], fact: Fact) -> None:
    """Note which draft a fact came from, if it came from one."""
    match fact:
        case PartRecorded(part=part):
            recorded[part.event_index, part.draft_ordinal] = part.part
        case UsageRecorded() | EventsUnparsed():
            recorded[fact.event_index, fact.draft_ordinal] = 0
        case _:
            pass
