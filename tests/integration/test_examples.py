"""The examples, as they are handed out: each can be solved, and a fault in one is found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS, ENVIRONMENTS = EXAMPLES / "tasks", EXAMPLES / "environments"
OWN_TASKS = ("expression_language", "ledger", "merge_sort")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")


def rust() -> str | None:
    """Where a rustc is with all that it needs, be it from rustup or the system's."""
    if shutil.which("rustc") is None:
        return None
    done = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=False)
    folder = Path(done.stdout.strip())
    return str(folder) if done.returncode == 0 and (folder / "bin" / "rustc").is_file() else None


needs_rust = pytest.mark.skipif(rust() is None, reason="there is no rustc")


def actions(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TASKS / task / "script.jsonl").read_text().splitlines()]


def solution_of(task: str, folder: Path) -> Path:
    """What a task's script leaves in the workspace."""
    folder.mkdir()
    for action in actions(task):
        if "write" in action:
            (folder / action["write"]).write_text(action["content"])
        if "patch" in action:
            words = ["git", "apply", "--whitespace=nowarn", "-"]
            subprocess.run(words, cwd=folder, input=action["patch"], text=True, check=True)
    return folder


def check(bench: Any, task: Path, environment: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    argv = [*bench.argv()[:3], "check", "--task", str(task), "--env", str(environment), "--json", *words]
    path = f"{rust() or ''}:{os.environ['PATH']}"
    done = subprocess.run(
        argv, cwd=bench.root, env={**bench.environ, "PATH": path}, capture_output=True, text=True, timeout=800,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.mark.parametrize("task", OWN_TASKS)
def test_check_passes_with_what_the_script_makes(bench: Any, tmp_path: Path, task: str) -> None:
    solution = solution_of(task, tmp_path / "solution")
    status, report, stderr = check(
        bench, TASKS / task, ENVIRONMENTS / task, "--solution", str(solution), "--repeat", "2"
    )
    assert (status, report.get("problems")) == (0, []), (report, stderr)
    assert len({path.split("/")[0] for path in report["test_paths"]}) >= 3


@pytest.mark.parametrize("task", ["expression_language", "ledger"])
def test_the_script_solves_in_several_turns_and_the_curve_rises(bench: Any, task: str) -> None:
    shutil.rmtree(bench.task)
    shutil.copytree(TASKS / task, bench.task)
    shutil.rmtree(bench.environment)
    shutil.copytree(ENVIRONMENTS / task, bench.environment)
    run = bench.run(timeout_s=600)
    assert run.summary["reason"] == "solved", run.stderr
    assert run.summary["turns"] >= 3
    passed = [row["evaluation"]["passed"] for row in run.rows if row["evaluation"]]
    assert passed == sorted(set(passed))
    assert len(passed) >= 3
    last = next(row["evaluation"] for row in reversed(run.rows) if row["evaluation"])
    assert last["failed"] == 0


def nothing_is_tested(folder: Path) -> None:
    (folder / "cases.toml").write_text("")


def passes_on_nothing(folder: Path) -> None:
    main = (folder / "main.py").read_text().replace("@envoi.setup\n", "")
    (folder / "main.py").write_text(main.replace("    if not problem:\n", "    if True:\n"))


def flaky(folder: Path) -> None:
    main = (folder / "main.py").read_text()
    often = "    marker = Path(__file__).with_name(name)\n    marker.unlink() if marker.exists() else marker.touch()\n"
    (folder / "main.py").write_text(main.replace("    if not problem:\n", f"{often}    if not marker.exists():\n"))


def wrong_expectation(folder: Path) -> None:
    text = (folder / "cases.toml").read_text()
    (folder / "cases.toml").write_text(text.replace('prints = "42"', 'prints = "43"', 1))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (nothing_is_tested, "defines no test"),
        (passes_on_nothing, "every test passes on an empty workspace"),
        (flaky, "the tests are flaky"),
        (wrong_expectation, "the solution fails (run 1):\n- arithmetic/number"),
    ],
)
def test_check_finds_a_seeded_fault(bench: Any, tmp_path: Path, fault: Callable[[Path], None], expected: str) -> None:
    """The same command passes without the fault: see above."""
    environment = tmp_path / "faulty"
    shutil.copytree(ENVIRONMENTS / "expression_language", environment)
    before = {path.name: path.read_bytes() for path in environment.iterdir() if path.is_file()}
    fault(environment)
    assert before != {path.name: path.read_bytes() for path in environment.iterdir() if path.is_file()}
    solution = solution_of("expression_language", tmp_path / "solution")
    status, report, stderr = check(
        bench, TASKS / "expression_language", environment, "--solution", str(solution), "--repeat", "2"
    )
    assert status != 0
    assert expected in "\n".join(report.get("problems", ())) + stderr


# -- the C compiler ---------------------------------------------------------------------------------


def c_environment(folder: Path, topics: str, *, cheat_check: bool) -> Path:
    """A copy that tests some of our own cases only."""
    shutil.copytree(
        ENVIRONMENTS / "c_compiler", folder, ignore=shutil.ignore_patterns(".cache", "__pycache__"), dirs_exist_ok=True
    )
    text = (folder / "settings.toml").read_text()
    text = re.sub(r"(?m)^suites = .*$", 'suites = ["basics"]', text)
    text = re.sub(r"(?m)^basics = \[[^]]*\]$", f"basics = {topics}", text)
    (folder / "settings.toml").write_text(
        text if cheat_check else text.replace("cheat_check = true", "cheat_check = false")
    )
    return folder


@needs_gcc
def test_check_of_the_c_compiler_passes_with_a_whole_compiler_and_names_a_case_that_is_wrong(
    bench: Any, tmp_path: Path
) -> None:
    """The whole compiler is gcc; so the cheat check is off."""
    (solution := tmp_path / "solution").mkdir()
    (solution / "build.sh").write_text("printf '#!/bin/sh\\nexec gcc -w \"$@\"\\n' >cc; chmod +x cc\n")
    environment = c_environment(tmp_path / "c", '["several_files", "variables"]', cheat_check=False)
    words = ["--sandbox-opt", "isolation=none", "--solution", str(solution), "--repeat", "2"]
    status, report, stderr = check(bench, TASKS / "c_compiler", environment, *words)
    assert (status, report.get("problems")) == (0, []), (report, stderr)
    assert report["empty_workspace"] == "does not build"

    cases = environment / "basics" / "variables.cases"
    cases.write_text(cases.read_text().replace("> exit 5\n", "> exit 6\n", 1))
    status, report, _ = check(bench, TASKS / "c_compiler", environment, *words[:4])
    assert status == 1
    assert "basics/variables (26 of 27 pass)" in report["problems"][0]


def test_the_c_compilers_script_is_what_its_sources_make() -> None:
    done = subprocess.run([sys.executable, str(TASKS / "c_compiler" / "make_script.py"), "--check"], check=False)
    assert done.returncode == 0, "run examples/tasks/c_compiler/make_script.py"


@needs_gcc
@needs_rust
def test_a_small_real_compiler_climbs_a_curve_and_evaluate_finds_the_same(bench: Any) -> None:
    """Five turns of the script, with the cheat check on; then every commit again, four at once."""
    shutil.rmtree(bench.task)
    shutil.copytree(TASKS / "c_compiler", bench.task)
    c_environment(bench.environment, '["expressions", "functions"]', cheat_check=True)
    toolchain = rust()
    environ = {**bench.environ, "PATH": f"{toolchain}/bin:{os.environ['PATH']}"}
    may_read = ("--sandbox-opt", f"read={toolchain}")
    done = subprocess.run(
        bench.argv("--max-turns", "5", *may_read), cwd=bench.root, env=environ,
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    run = bench.finished()
    assert json.loads(done.stdout.strip().splitlines()[-1])["reason"] == "turn_limit", done.stderr
    live = {row["git_commit"]: row["evaluation"] for row in run.rows if row["evaluation"]}
    passed = [evaluation["passed"] for evaluation in live.values()]
    assert passed == [29, 34, 51, 62, 62]
    assert [evaluation["status"] for evaluation in live.values()] == ["completed"] * 5

    words = ["evaluate", "t1", "--env", str(bench.environment), "--sandbox", "local", "--concurrency", "4", "--json"]
    again = subprocess.run(
        [*bench.argv()[:3], *words, *may_read], cwd=bench.root, env=environ,
        capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    (report,) = (run.folder / "evaluations").iterdir()
    found = {each["commit"]: each for each in json.loads(report.read_text())["commits"]}
    before = run.trace.evaluations
    assert found.keys() == set(live)
    for commit, each in found.items():
        assert each["status"] == "completed"
        results = {one["path"]: (one["counts"]["passed"], one["counts"]["failed"]) for one in each["results"]}
        recorded = before[commit].results
        assert results == {one.path: (one.counts.passed, one.counts.failed) for one in recorded}
        assert len(results) == 2

    drawn = bench.cli("graph", "t1", "--output", "charts")
    assert drawn.returncode == 0, drawn.stderr
    assert [path for path in (bench.root / "charts").iterdir() if path.suffix == ".png"]
