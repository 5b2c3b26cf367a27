"""What each model response used, counted once however often Codex tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from envoi_trace_codex.parsing.values import camel, count, mapping, text
from envoi_trace_core.domain.parts import TokenUsage

_FIELDS = ("input", "cached_input", "output", "reasoning", "total")


def usage_of(value: Any) -> TokenUsage:
    """Token usage in any of Codex's dialects: `inputTokens` or `input_tokens`."""
    named: Mapping[str, Any] = {camel(name): number for name, number in mapping(value).items()}
    used = TokenUsage(
        input=count(named.get("inputTokens")),
        cached_input=count(named.get("cachedInputTokens")),
        output=count(named.get("outputTokens")),
        reasoning=count(named.get("reasoningOutputTokens")),
        total=count(named.get("totalTokens")),
    )
    return used if used.total else attrs.evolve(used, total=used.input + used.output)


@attrs.define
class UsageMeter:
    """Usage of one thread. Codex tells it by response (with an id, when raw events are on) and as a sum."""

    counted: TokenUsage = attrs.field(factory=TokenUsage)
    _response_ids: set[str] = attrs.field(factory=set, init=False)
    _newest_total: TokenUsage = attrs.field(factory=TokenUsage, init=False)

    def response(self, response_id: Any, usage: Any) -> TokenUsage | None:
        """A response ended with this usage; None when it was counted before, or used nothing."""
        used, name = usage_of(usage), text(response_id)
        if not used.total or name in self._response_ids:
            return None
        if name:
            self._response_ids.add(name)
        self.counted += used
        return used

    def total(self, total: Any, last: Any) -> TokenUsage | None:
        """The thread's sum so far, and the newest response's: what of it was not counted yet.

        Codex repeats the sum when a thread is resumed, and sets it to the size of the context window when that
        overflows: a sum that does not add up is no usage.
        """
        so_far = usage_of(total)
        if so_far == self._newest_total:
            return None
        fell_back = so_far.total < self._newest_total.total
        self._newest_total = so_far
        missing = usage_of(last) if fell_back and not self._response_ids else _difference(so_far, self.counted)
        if missing is None or not missing.total:
            return None
        self.counted += missing
        return missing


def _difference(more: TokenUsage, less: TokenUsage) -> TokenUsage | None:
    numbers = {name: getattr(more, name) - getattr(less, name) for name in _FIELDS}
    plausible = min(numbers.values()) >= 0 and numbers["total"] == numbers["input"] + numbers["output"]
    return TokenUsage(**numbers) if plausible else None
