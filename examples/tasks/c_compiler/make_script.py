"""Writes script.jsonl from `solution/`, the finished compiler: one turn a stage, each a patch on the one before.

    python make_script.py [--check]
    python make_script.py --stage N FOLDER     writes the sources of a stage, to be built by hand

In the sources, lines from `//@N` to `//@` are there from stage N on, and lines from `//@-N` to `//@` before it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOLUTION = HERE / "solution"
LAST = 5

SAID: dict[int, tuple[str, str, list[str]]] = {
    1: (
        (
            "Start with the way from text to a program that runs: tokens, a tree of integer expressions, assembly for "
            "a machine with a stack. Only `int main(void) { return ...; }` is understood."
        ),
        "A first compiler: integer expressions.",
        ["basics/expressions"],
    ),
    2: (
        (
            "Variables live in the frame below rbp. Every statement becomes labels and jumps, so `break`, `continue`, "
            "`goto` and `switch` are all one kind of jump."
        ),
        "Local variables, assignment and all statements.",
        ["basics/control_flow", "basics/variables"],
    ),
    3: (
        "Calls: arguments in rdi, rsi, rdx, rcx, r8, r9 and then on the stack, which must be aligned to 16 bytes.",
        "Functions, prototypes, global and static variables.",
        ["basics/functions", "basics/several_files"],
    ),
    4: (
        "Every expression has a type by now, so sizes, conversions, pointers and arrays are a matter of the types.",
        "The integer types, pointers, arrays, strings, typedef and enum.",
        ["basics/pointers", "basics/arrays", "basics/strings"],
    ),
    5: (
        "What is wrong must be refused: names declared twice, wrong arguments, missing labels, void values.",
        "Checks, each with its line. Structures, floating point and the preprocessor are still missing.",
        ["basics/diagnostics", ""],
    ),
}
"""Of each stage: the reasoning, what is said of it, which tests are run."""


def at_stage(text: str, stage: int, name: str) -> str:
    """A source file as it is at a stage."""
    lines: list[str] = []
    shown = [True]
    for line in text.splitlines(keepends=True):
        mark = line.rstrip()
        if not mark.startswith("//@"):
            lines += [line] if all(shown) else []
        elif mark == "//@":
            shown.pop()
        else:
            number = int(mark.removeprefix("//@"))
            shown.append(stage >= number if number > 0 else stage < -number)
    if shown != [True]:
        raise SystemExit(f"{name}: `//@` marks do not match")
    return "".join(lines)


def sources(stage: int) -> dict[str, str]:
    """Path to content at a stage; nothing at stage 0."""
    paths = sorted(path for path in SOLUTION.rglob("*") if path.is_file() and path.name != "cc") if stage else []
    names = [path.relative_to(SOLUTION).as_posix() for path in paths]
    return {name: at_stage(path.read_text(), stage, name) for name, path in zip(names, paths, strict=True)}


def patch(stage: int) -> str:
    """What a stage changes, as a unified diff."""
    old, new = sources(stage - 1), sources(stage)
    diff = ""
    for name, text in new.items():
        before = old.get(name)
        lines = difflib.unified_diff(
            (before or "").splitlines(keepends=True), text.splitlines(keepends=True),
            "/dev/null" if before is None else f"a/{name}", f"b/{name}",
        )  # fmt: skip
        diff += "".join(lines)
    return diff


def script() -> str:
    """The whole script."""
    actions: list[dict[str, object]] = []
    for stage in range(1, LAST + 1):
        reasoning, text, tests = SAID[stage]
        change = patch(stage)
        tokens = len(change) // 4
        actions += [{"reasoning": reasoning}, {"patch": change}]
        actions += [{"usage": {"input": 4000 * stage, "output": tokens, "cost_usd": round(tokens * 1.4e-5, 4)}}]
        actions += [{"run": "sh build.sh && ls -l cc", "timeout_s": 300}]
        actions += [{"run_tests": path} for path in tests]
        actions += [{"text": text}]
        if stage < LAST:
            actions.append({"turn": True})
    return "".join(json.dumps(action) + "\n" for action in actions)


def main() -> int:
    """Write it, or with --check say whether what stands there is right."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--stage", nargs=2, metavar=("N", "FOLDER"))
    arguments = parser.parse_args()
    target = HERE / "script.jsonl"
    if arguments.stage:
        stage, folder = int(arguments.stage[0]), Path(arguments.stage[1])
        for name, text in sources(stage).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return 0
    if not arguments.check:
        target.write_text(script())
    return 0 if target.read_text() == script() else 1


if __name__ == "__main__":
    sys.exit(main())
