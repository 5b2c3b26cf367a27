"""Tests an interpreter for a small expression language: calc.py, which reads a program from standard input.

The cases stand in cases.toml beside this file: of each, a program, and what it prints or the line of its error.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import envoi

TIMEOUT_S = 5
CASES = tomllib.loads(Path(__file__).with_name("cases.toml").read_text())
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"ast", "code", "codeop", "subprocess", "importlib", "builtins", "runpy", "ctypes"}


@envoi.setup
async def build(submission: envoi.Documents) -> None:
    """Check that there is a program that parses and keeps the rules; what is raised here is shown to the agent."""
    program = Path(submission.dir) / "calc.py"
    if not program.is_file():
        raise RuntimeError("there is no calc.py in the workspace")
    try:
        tree = ast.parse(program.read_bytes(), "calc.py")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RuntimeError(f"calc.py does not parse: {error}") from error
    for node in ast.walk(tree):
        broken = broken_rule(node)
        if broken:
            raise RuntimeError(f"calc.py, line {node.lineno}: {broken} is not allowed")  # type: ignore[attr-defined]


def broken_rule(node: ast.AST) -> str:
    """What of the rules a piece of the program breaks. Honest programs only: Python can hide what it does."""
    if isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
        return node.id
    if isinstance(node, ast.Import):
        return next((alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES), "")
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
        return str(node.module)
    return ""


async def run(name: str, case: dict[str, object]) -> dict[str, object]:
    """Run one program and compare."""
    program = envoi.session_path() / f".program-{name}"
    program.write_text(str(case["program"]))
    result = await envoi.run(f"exec {sys.executable} -I calc.py < {program.name}", timeout_seconds=TIMEOUT_S)
    problem = differs(result, str(case.get("prints", "")), case.get("error"))
    if not problem:
        return {"passed": 1, "failed": 0, "total": 1}
    return {"passed": 0, "failed": 1, "total": 1, "reason": problem, "program": str(case["program"])[:1000]}


def differs(result: envoi.RunResult, prints: str, error_line: object) -> str:
    """Why a case failed, short enough to be read; empty when it did not."""
    if result.exit_code == -1:
        return f"no result within {TIMEOUT_S} s"
    wanted = 0 if error_line is None else 1
    if result.exit_code != wanted:
        return f"exit status {wanted} was expected, and {result.exit_code} came: {result.stderr[-500:]}"
    if result.stdout.strip() != prints.strip():
        return f"{prints.strip()[:400]!r} was expected, and {result.stdout.strip()[:400]!r} came"
    if error_line is not None and not result.stderr.startswith(f"line {error_line}: "):
        return f"'line {error_line}: ...' was expected on standard error, and {result.stderr[:400]!r} came"
    return ""


def register(suite: envoi.environment.Suite, name: str, case: dict[str, object]) -> None:
    """Make a case a test."""

    async def test() -> dict[str, object]:
        return await run(name, case)

    test.__doc__ = str(case.get("about", name.replace("_", " ")))
    suite.test(name)(test)


for _suite, _cases in CASES.items():
    _registered = envoi.suite(_suite)
    for _name, _case in _cases.items():
        register(_registered, _name, _case)
