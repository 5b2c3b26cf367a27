"""What a trajectory may use up, and what it costs."""

from __future__ import annotations

from typing import Protocol

import attrs

from envoi_trace_core.domain.parts import SessionEndReason, TokenUsage
from envoi_trace_core.errors import UsageError

STALLED_TURNS = 3
"""So many turns in a row without any action end a run as `stalled`."""


class Spent(Protocol):
    """What a trajectory has used so far (`TraceState` is one)."""

    @property
    def part_count(self) -> int:
        """Parts recorded."""
        ...

    @property
    def total_usage(self) -> TokenUsage:
        """Tokens, over all parts."""
        ...

    @property
    def total_cost_usd(self) -> float | None:
        """None when no cost is known."""
        ...


@attrs.frozen(kw_only=True)
class Budgets:
    """The limits that end a run in the middle of a turn."""

    max_parts: int
    max_tokens: int | None = None
    max_cost_usd: float | None = None

    def reached(self, spent: Spent) -> SessionEndReason | None:
        """The first budget that is used up."""
        if spent.part_count >= self.max_parts:
            return "part_limit"
        if self.max_tokens is not None and spent.total_usage.total >= self.max_tokens:
            return "token_limit"
        if self.max_cost_usd is not None and (spent.total_cost_usd or 0.0) >= self.max_cost_usd:
            return "cost_limit"
        return None


@attrs.frozen(kw_only=True)
class Price:
    """US dollars a million tokens."""

    input: float
    cached_input: float
    output: float

    def of(self, usage: TokenUsage) -> float:
        """What that usage costs, in US dollars."""
        fresh = max(usage.input - usage.cached_input, 0)
        return (fresh * self.input + usage.cached_input * self.cached_input + usage.output * self.output) / 1e6


def split_price(agent_opts: tuple[str, ...]) -> tuple[tuple[str, ...], Price | None]:
    """Take `price=in:1.25,cached:0.1,out:10` out of the agent's options: it is meant for the core.

    Without `cached`, cached input costs what input costs.

    Raises:
        UsageError: The price can't be read.
    """
    rest = tuple(word for word in agent_opts if not word.startswith("price="))
    words = [word.removeprefix("price=") for word in agent_opts if word.startswith("price=")]
    return rest, _parse_price(words[-1]) if words else None


def _parse_price(text: str) -> Price:
    fields: dict[str, float] = {}
    try:
        for item in text.split(","):
            key, _, value = item.partition(":")
            fields[key.strip()] = float(value)
        price = Price(input=fields["in"], cached_input=fields.get("cached", fields["in"]), output=fields["out"])
    except (KeyError, ValueError):
        fields = {"?": 0.0}
    if fields.keys() - {"in", "cached", "out"} or any(not 0 <= value < 1e9 for value in fields.values()):
        raise UsageError(
            f"price={text!r} is no price: US dollars a million tokens are expected",
            mend="--agent-opt price=in:1.25,cached:0.1,out:10",
        )
    return price
