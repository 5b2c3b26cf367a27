"""The tests of this environment: the path of each, and its cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from cases import Case, load_cases
from public_suites import load_public
from settings import HERE, Settings


@dataclass(frozen=True)
class Test:
    """One path."""

    suite: str
    name: str
    summary: str
    cases: Callable[[], list[Case]]
    """Raises `MissingSuiteError` when a public suite could not be fetched."""

    @property
    def path(self) -> str:
        """As it is asked for."""
        return f"{self.suite}/{self.name}"


def all_tests(settings: Settings) -> Iterator[Test]:
    """Every test; the same ones whether the public suites are there or not."""
    if "basics" in settings.suites:
        for topic in settings.basics:
            load = partial(load_cases, HERE / "basics" / f"{topic}.cases")
            yield Test("basics", topic, f"Our own cases: {topic.replace('_', ' ')}.", load)
    for public in settings.public:
        kind = "chapter" if public.name == "wacct" else "part"
        for number in range(1, public.tests + 1):
            load = partial(load_public, public, number)
            yield Test(public.name, f"{kind}_{number}", f"{public.url.rsplit('/', 1)[-1]}, {kind} {number}.", load)
