"""Trajectories in groups: how often each group solves its tasks, and what a solution costs.

What counts: trajectories that ended by themselves or by the agent's failure. One that ended as `envoi_error`,
`infrastructure_error` or `interrupted` says nothing of the agent; it is left out, as is one that has not ended, and
both are told.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import attrs

from envoi_trace_core.analysis.rates import Estimate, PassAtK, TaskTrials, ks_of, pass_at_k, wilson
from envoi_trace_core.errors import UsageError
from envoi_trace_core.suggest import did_you_mean
from envoi_trace_core.trace.reader import TraceHeader

FIELDS = (
    "agent", "agent_version", "model", "task", "environment", "environment_hash", "sandbox", "batch", "trial",
)  # fmt: skip
LABEL = "label:"
NOT_THE_AGENTS = ("envoi_error", "infrastructure_error", "interrupted")


@attrs.frozen(kw_only=True)
class Group:
    """Some trajectories that have one thing in common."""

    name: str
    key: dict[str, str | None]
    trajectories: int
    in_progress: int
    left_out: int
    """Ended by a failure that is not the agent's, or by a person."""
    counted: int
    solved: int
    solve_rate: Estimate | None
    tasks: int
    pass_at: tuple[PassAtK, ...]
    mean_best_share: float | None
    """Of passed tests, 0 to 1, over what counts."""
    median_parts: float | None
    """Of what counts, as all that follows."""
    tokens: int
    cost_usd: float | None
    """None when no cost is known."""
    cost_known: int
    """Of how many of the counted trajectories the cost is known."""
    cost_per_solve_usd: float | None
    """None when nothing was solved, or a cost is not known."""
    tokens_per_solve: float | None


def group_fields(word: str) -> tuple[str, ...]:
    """What `--by` names: one or more of `FIELDS`, or `label:KEY`, with commas between.

    Raises:
        UsageError: There is no such field.
    """
    fields = tuple(field.strip() for field in word.split(","))
    for field in fields:
        if field not in FIELDS and not (field.startswith(LABEL) and len(field) > len(LABEL)):
            raise UsageError(
                f"--by {field!r} is nothing to group by.{did_you_mean(field, FIELDS)}",
                mend=f"--by {', '.join(FIELDS)} or label:KEY; several with commas",
            )
    return fields


def groups_of(headers: Iterable[TraceHeader], fields: Sequence[str]) -> list[Group]:
    """Put trajectories into groups; the best solve rate first."""
    members: dict[tuple[str | None, ...], list[TraceHeader]] = defaultdict(list)
    for header in headers:
        members[tuple(_value(header, field) for field in fields)].append(header)
    groups = [_group(dict(zip(fields, key, strict=True)), found) for key, found in members.items()]
    return sorted(groups, key=lambda group: (-(group.solve_rate.value if group.solve_rate else -1.0), group.name))


def is_solved(header: TraceHeader) -> bool:
    """Whether every test path passed on one commit."""
    return header.summary.solved_commit is not None or (header.end is not None and header.end.reason == "solved")


def counts(header: TraceHeader) -> bool:
    """Whether a trajectory says something of its agent."""
    return header.end is not None and (is_solved(header) or header.end.reason not in NOT_THE_AGENTS)


def groups_json(groups: Sequence[Group], fields: Sequence[str]) -> dict[str, Any]:
    """The groups for other programs; keys are stable."""
    return {
        "format": "envoi-trace.compare-groups",
        "version": 1,
        "by": list(fields),
        "groups": [attrs.asdict(group) for group in groups],
        "interval": "95 %: Wilson for the solve rate; exact or bootstrap for pass@k",
    }


def _value(header: TraceHeader, field: str) -> str | None:
    trajectory = header.trajectory
    if field.startswith(LABEL):
        return trajectory.labels.get(field.removeprefix(LABEL))
    value = getattr(trajectory, field)
    return None if value is None else str(value)


def _group(key: dict[str, str | None], headers: Sequence[TraceHeader]) -> Group:
    counted = [header for header in headers if counts(header)]
    solved = sum(is_solved(header) for header in counted)
    trials = _trials(counted)
    costs = [cost for header in counted if (cost := _cost(header)) is not None]
    cost_usd = math.fsum(costs) if costs else None
    tokens = sum(header.summary.token_usage.total for header in counted)
    in_progress = sum(header.end is None for header in headers)
    return Group(
        name=" ".join(f"(no {field})" if value is None else value for field, value in key.items()),
        key=key,
        trajectories=len(headers),
        in_progress=in_progress,
        left_out=len(headers) - in_progress - len(counted),
        counted=len(counted),
        solved=solved,
        solve_rate=wilson(solved, len(counted)),
        tasks=len(trials),
        pass_at=tuple(found for k in ks_of(trials) if (found := pass_at_k(trials, k)) is not None),
        mean_best_share=math.fsum(header.summary.best_share for header in counted) / len(counted) if counted else None,
        median_parts=median(header.summary.parts for header in counted) if counted else None,
        tokens=tokens,
        cost_usd=cost_usd,
        cost_known=len(costs),
        cost_per_solve_usd=cost_usd / solved
        if cost_usd is not None and solved and len(costs) == len(counted)
        else None,
        tokens_per_solve=tokens / solved if tokens and solved else None,
    )


def _cost(header: TraceHeader) -> float | None:
    cost_usd = header.summary.cost_usd
    return cost_usd if cost_usd is not None and math.isfinite(cost_usd) else None


def _trials(headers: Iterable[TraceHeader]) -> list[TaskTrials]:
    """A task is the same when its folder, its parameters and its environment are."""
    outcomes: dict[tuple[str | None, ...], list[bool]] = defaultdict(list)
    for header in headers:
        one = header.trajectory
        outcomes[(one.task, one.task_hash, one.task_params, one.environment, one.environment_hash)].append(
            is_solved(header)
        )
    return [TaskTrials(tried=len(found), solved=sum(found)) for found in outcomes.values()]
