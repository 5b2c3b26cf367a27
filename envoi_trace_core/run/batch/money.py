"""What a batch has cost so far, over every attempt of it, and whether its budget is spent."""

from __future__ import annotations

import attrs


@attrs.define
class Money:
    """The total cost budget of a batch."""

    limit_usd: float | None
    total_usd: float = 0.0
    _counted: dict[str, float] = attrs.field(factory=dict, init=False)
    """By trajectory id: what `total_usd` holds of it already."""

    def spent(self, trajectory_id: str, cost_usd: float | None) -> None:
        """A trajectory has cost that much by now, from its beginning."""
        now = cost_usd or 0.0
        self.total_usd += now - self._counted.get(trajectory_id, 0.0)
        self._counted[trajectory_id] = now

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more may start."""
        return self.limit_usd is not None and self.total_usd >= self.limit_usd
