"""Tests a sorting program: merge_sort.py, which reads lines and writes them sorted.

Each line is `KEY` or `KEY NAME`; lines are sorted by KEY, an integer, and lines of equal KEY keep their order.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from pathlib import Path

import envoi

TIMEOUT_S = 5
"""A submission that hangs fails its test; it does not hang the environment."""

basics = envoi.suite("basics")
edge_cases = envoi.suite("edge_cases")
stability = envoi.suite("stability")


@envoi.setup
async def build(submission: envoi.Documents) -> None:
    """Check that there is a program and that it compiles; what is raised here is shown to the agent."""
    program = Path(submission.dir) / "merge_sort.py"
    if not program.is_file():
        raise RuntimeError("there is no merge_sort.py in the workspace")
    try:
        compile(program.read_bytes(), "merge_sort.py", "exec")
    except (SyntaxError, ValueError) as error:
        raise RuntimeError(f"merge_sort.py does not compile: {error}") from error


async def sorts(name: str, lines: Iterable[str]) -> dict[str, object]:
    """Run the program on some lines and compare with Python's own sort, which is stable."""
    given = list(lines)
    expected = sorted(given, key=lambda line: int(line.split()[0]))
    folder = envoi.session_path()
    data = folder / f".input-{name}"
    data.write_text("".join(f"{line}\n" for line in given))
    result = await envoi.run(f"exec {sys.executable} -I merge_sort.py < {data.name}", timeout_seconds=TIMEOUT_S)
    got = result.stdout.splitlines()
    if result.exit_code == 0 and got == expected:
        return {"passed": 1, "failed": 0, "total": 1}
    return {"passed": 0, "failed": 1, "total": 1, "reason": reason(result, expected, got)}


def reason(result: envoi.RunResult, expected: list[str], got: list[str]) -> str:
    """Why a test failed, short enough to be read."""
    if result.exit_code == -1:
        return f"no result within {TIMEOUT_S} s"
    if result.exit_code != 0:
        return f"exit code {result.exit_code}: {result.stderr[-500:]}"
    if len(got) != len(expected):
        return f"{len(expected)} lines were expected, {len(got)} came"
    place = next(index for index, pair in enumerate(zip(expected, got, strict=True)) if pair[0] != pair[1])
    return f"line {place + 1} should be {expected[place]!r}, and is {got[place]!r}"[:500]


@basics.test
async def few_numbers() -> dict[str, object]:
    """Five numbers."""
    return await sorts("few_numbers", ["3", "1", "5", "2", "4"])


@basics.test
async def duplicates() -> dict[str, object]:
    """Numbers that occur twice stay twice."""
    return await sorts("duplicates", ["2", "1", "2", "1", "3"])


@basics.test
async def negative_numbers() -> dict[str, object]:
    """Keys are integers, not texts."""
    return await sorts("negative_numbers", ["10", "-2", "9", "-10", "0"])


@edge_cases.test
async def empty() -> dict[str, object]:
    """No line."""
    return await sorts("empty", [])


@edge_cases.test
async def single() -> dict[str, object]:
    """One line."""
    return await sorts("single", ["7"])


@edge_cases.test
async def reversed_order() -> dict[str, object]:
    """Every line is in the wrong place."""
    return await sorts("reversed_order", [str(number) for number in range(200, 0, -1)])


@edge_cases.test
async def odd_length() -> dict[str, object]:
    """Halves of different lengths."""
    return await sorts("odd_length", [str(number % 7) for number in range(101)])


@stability.test
async def equal_keys() -> dict[str, object]:
    """Lines of equal key keep their order."""
    return await sorts("equal_keys", ["1 b", "0 x", "1 a", "0 y", "1 c"])


@stability.test
async def many_lines() -> dict[str, object]:
    """Five thousand lines with few keys, within the time."""
    numbers = random.Random(5)
    return await sorts("many_lines", [f"{numbers.randrange(50)} {index}" for index in range(5000)])
