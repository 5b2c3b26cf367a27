"""Solve rates with their intervals: Wilson's for a rate, the unbiased estimator for pass@k.

- Solve rate: solved trajectories of those that count, with Wilson's score interval at 95 %
  (Wilson 1927; https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval).
- pass@k: the chance that at least one of k trials solves a task. Of a task with n trials of which c solved it,
  `1 - C(n-c, k) / C(n, k)` is an unbiased estimate (Chen et al. 2021, https://arxiv.org/abs/2107.03374); the mean over
  the tasks is given, for k up to the trials that all of them have.
- Its interval at 95 %: of one task, or when all trials ended alike, the exact interval of the rate (Clopper and Pearson
  1934) put through `1 - (1 - p)^k`; else the percentiles of 2,000 bootstrap samples that draw tasks, and trials within
  them, with a fixed seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import attrs

Z_95 = 1.959963984540054
RESAMPLES = 2_000


@attrs.frozen(kw_only=True)
class Estimate:
    """A share, 0 to 1, with its interval at 95 %."""

    value: float
    low: float
    high: float


@attrs.frozen(kw_only=True)
class TaskTrials:
    """How often one task was tried and solved."""

    tried: int
    solved: int


@attrs.frozen(kw_only=True)
class PassAtK:
    """pass@k for one k."""

    k: int
    estimate: Estimate
    tasks: int
    """Tasks with at least k trials: only they count."""


def wilson(solved: int, tried: int) -> Estimate | None:
    """The solve rate; None when nothing was tried."""
    if not tried:
        return None
    rate = solved / tried
    scale = 1 + Z_95**2 / tried
    middle = (rate + Z_95**2 / (2 * tried)) / scale
    reach = Z_95 / scale * math.sqrt(rate * (1 - rate) / tried + Z_95**2 / (4 * tried**2))
    low = 0.0 if solved == 0 else max(0.0, middle - reach)
    high = 1.0 if solved == tried else min(1.0, middle + reach)
    return Estimate(value=rate, low=low, high=high)


def clopper_pearson(solved: int, tried: int, *, risk: float = 0.05) -> Estimate:
    """The exact interval of a rate of at least one try."""

    def at_most(count: int, rate: float) -> float:
        # By logarithms: the binomial coefficients of a thousand trials are no floats any more.
        each = (
            math.lgamma(tried + 1) - math.lgamma(hits + 1) - math.lgamma(tried - hits + 1)
            + hits * math.log(rate) + (tried - hits) * math.log1p(-rate)
            for hits in range(count + 1)
        )  # fmt: skip
        return math.fsum(math.exp(exponent) for exponent in each)

    low = 0.0 if solved == 0 else _root(lambda rate: 1 - at_most(solved - 1, rate) - risk / 2)
    high = 1.0 if solved == tried else _root(lambda rate: risk / 2 - at_most(solved, rate))
    return Estimate(value=solved / tried, low=low, high=high)


def _root(rising: Callable[[float], float]) -> float:
    """Where a rising function of a rate passes zero."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def pass_at_k(tasks: Sequence[TaskTrials], k: int) -> PassAtK | None:
    """pass@k over tasks; None when no task was tried k times."""
    enough = [task for task in tasks if task.tried >= k]
    if not enough:
        return None
    value = math.fsum(_of_task(task, k) for task in enough) / len(enough)
    low, high = _interval(enough, k)
    return PassAtK(k=k, estimate=Estimate(value=value, low=min(low, value), high=max(high, value)), tasks=len(enough))


def ks_of(tasks: Sequence[TaskTrials]) -> list[int]:
    """For which k pass@k is worth telling: 1, 2, 4 and so on up to the trials that every task has, and these.

    A larger k would be of fewer tasks, and could not be compared with a smaller one.
    """
    least = min((task.tried for task in tasks), default=0)
    ks = {2**power for power in range(least.bit_length()) if 2**power <= least}
    return sorted(ks | ({least} if least else set()))


def _of_task(task: TaskTrials, k: int) -> float:
    return 1 - math.comb(task.tried - task.solved, k) / math.comb(task.tried, k)


def _interval(tasks: Sequence[TaskTrials], k: int) -> tuple[float, float]:
    solved, tried = sum(task.solved for task in tasks), sum(task.tried for task in tasks)
    if len(tasks) == 1 or solved in (0, tried):
        exact = clopper_pearson(solved, tried)
        return 1 - (1 - exact.low) ** k, 1 - (1 - exact.high) ** k
    draw = random.Random(k)  # noqa: S311 - statistics, and the same each time
    means = sorted(_resampled(tasks, k, draw) for _ in range(RESAMPLES))
    return means[round(0.025 * (RESAMPLES - 1))], means[round(0.975 * (RESAMPLES - 1))]


def _resampled(tasks: Sequence[TaskTrials], k: int, draw: random.Random) -> float:
    drawn = draw.choices(tasks, k=len(tasks))
    return math.fsum(
        _of_task(TaskTrials(tried=task.tried, solved=draw.binomialvariate(task.tried, task.solved / task.tried)), k)
        for task in drawn
    ) / len(drawn)
