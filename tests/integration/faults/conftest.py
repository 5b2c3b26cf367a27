"""Faults that are really made: processes killed or stopped, disks filled, stores and clocks that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for fault_tools: test folders are no packages
pytest.register_assert_rewrite("fault_tools")  # or its asserts tell nothing of what they compared

import fault_tools  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture
def cheap_bench(bench):
    """A bench whose evaluations cost little, and tell of each line of log.txt."""
    bench.main_py(fault_tools.CHEAP_ENVIRONMENT)
    return bench
