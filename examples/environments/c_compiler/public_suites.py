"""The three public suites, as cases. They lie where `setup.sh` put them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from cases import Case
from settings import PublicSuite

NEEDS_MORE = re.compile(
    r"dg-(require|skip-if|options|xfail|add-options|additional-options|additional-sources)|__asm|asm ?\("
)
"""GCC's tests that need another target, another option or its assembler syntax are left out."""


class MissingSuiteError(Exception):
    """It is not there; says why."""


def load_public(suite: PublicSuite, number: int) -> list[Case]:
    """The cases of one test of a suite, counted from 1.

    Raises:
        MissingSuiteError: It could not be fetched, or is not what was expected.
    """
    if not (suite.folder / ".complete").is_file():
        reason = suite.failure.read_text() if suite.failure.is_file() else "setup.sh did not run"
        raise MissingSuiteError(f"{suite.name} is not there: {reason.strip()}")
    try:
        if suite.name == "wacct":
            return list(_wacct(suite.folder, f"chapter_{number}"))
        load = {"c_testsuite": _c_testsuite, "torture": _torture}[suite.name]
        paths = sorted(path for path in (suite.folder / suite.folders[0]).glob("*.c") if path.is_file())
        # Neighbours are alike, so each test gets a bit of everything.
        return list(load(paths[number - 1 :: suite.tests]))
    except (OSError, ValueError, KeyError) as error:
        raise MissingSuiteError(f"{suite.name} can't be read: {error}") from error


def _c_testsuite(paths: list[Path]) -> Iterator[Case]:
    for path in paths:
        expected = path.with_name(f"{path.name}.expected")
        if expected.is_file():
            yield Case(path.stem, {path.name: path.read_bytes()}, (path.name,), stdout=expected.read_bytes())


def _torture(paths: list[Path]) -> Iterator[Case]:
    """A program that finds an error calls abort."""
    for path in paths:
        source = path.read_bytes()
        if not NEEDS_MORE.search(source.decode(errors="replace")) and not path.with_suffix(".x").exists():
            yield Case(path.stem, {path.name: source}, (path.name,))


def _wacct(folder: Path, chapter: str) -> Iterator[Case]:
    """One chapter of "Writing a C Compiler": valid programs, and ones that must be refused."""
    tests = folder / "tests"
    expected = json.loads((folder / "expected_results.json").read_text())
    properties = json.loads((folder / "test_properties.json").read_text())
    headers = {str(path.relative_to(tests)): path.read_bytes() for path in sorted((tests / chapter).rglob("*.h"))}
    for name in sorted(name for name in expected if name.startswith(f"{chapter}/")):
        if name in properties.get("assembly_libs", {}):
            continue  # half of it is assembly
        client = name.removesuffix(".c") + "_client.c"
        sources = [name, *([client] if (tests / client).is_file() else []), *properties.get("libs", {}).get(name, [])]
        stdout = expected[name].get("stdout")
        yield Case(
            name=name.removeprefix(f"{chapter}/").removesuffix(".c"),
            files={**{source: (tests / source).read_bytes() for source in sources}, **headers},
            sources=tuple(sources),
            exit_status=int(expected[name]["return_code"]) % 256,
            stdout=stdout.encode() if stdout is not None else None,
            cc_args=("-lm",) if name in properties.get("requires_mathlib", ()) else (),
        )
    for path in sorted((tests / chapter).glob("invalid_*/**/*.c")):
        name = str(path.relative_to(tests))
        content = {name: path.read_bytes(), **headers}
        yield Case(str(path.relative_to(tests / chapter).with_suffix("")), content, (name,), refused=True)
