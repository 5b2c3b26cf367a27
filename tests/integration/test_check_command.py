"""`envoi-trace check`: whether a task and an environment are worth an agent's time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).parents[2] / "examples"

HAS_ANSWER = """
import envoi

@envoi.test
async def has_answer():
    path = envoi.session_path() / "answer.txt"
    good = path.is_file() and path.read_text().strip() == "42"
    return {"passed": int(good), "failed": int(not good), "total": 1, "reason": "answer.txt is not 42"}
"""
ALWAYS = """
import envoi

@envoi.test
async def always():
    return {"passed": 1, "failed": 0, "total": 1}
"""
FLAKY = """
from pathlib import Path
import envoi

@envoi.test
async def every_second_time():
    marker = Path(__file__).with_name("marker")
    good = (envoi.session_path() / "answer.txt").is_file() and not marker.exists()
    marker.unlink() if marker.exists() else marker.touch()
    return {"passed": int(good), "failed": int(not good), "total": 1}
"""


def check(bench: Any, *words: str, task: Path | None = None, env: Path | None = None) -> Any:
    """Run it; whatever it finds, nothing is left."""
    done = subprocess.run(
        [*bench.argv()[:3], "check", "--task", str(task or bench.task), "--env", str(env or bench.environment), *words],
        cwd=bench.root, env=bench.environ, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert list(bench.root.iterdir()) == []
    assert not list(bench.state.glob("trajectories/*"))
    assert bench.sandboxes() == []
    assert bench.processes() == []
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def solution(tmp_path: Path) -> Path:
    folder = tmp_path / "solution"
    folder.mkdir()
    (folder / "answer.txt").write_text("42\n")
    return folder


def test_the_merge_sort_example_passes(bench):
    done = check(bench, "--json", task=EXAMPLES / "tasks" / "merge_sort", env=EXAMPLES / "environments" / "merge_sort")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert report["problems"] == []
    assert len(report["test_paths"]) == 9
    assert report["empty_workspace"] == "does not build"
    assert report["solution"][0].startswith("9 of 9 pass")
    assert "merge_sort.py" in report["prompt"]


def test_the_hello_example_passes(bench, tmp_path):
    (solved := tmp_path / "solved").mkdir()
    (solved / "greeting.txt").write_text("Hello!\n")

    done = check(bench, "--solution", str(solved), env=EXAMPLES / "environments" / "hello")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "passed"


def test_the_tasks_script_is_the_solution(bench):
    bench.main_py(HAS_ANSWER)
    bench.script({"write": "answer.txt", "content": "41"})

    done = check(bench)

    assert done.returncode == 1, done.stderr
    assert "problem: the solution fails (run 1)" in done.stdout
    assert "has_answer" in done.stdout
    assert done.stdout.splitlines()[-1] == "failed"


def test_a_script_that_fails_is_no_solution(bench):
    bench.main_py(HAS_ANSWER)
    bench.script({"write": "answer.txt", "content": "42"}, {"fail": "out of ideas"})

    done = check(bench)

    assert done.returncode == 1, done.stdout
    assert "the task's script was not played to its end" in done.stderr
    assert "out of ideas" in done.stderr


def test_without_a_solution_it_says_that_there_is_none(bench):
    bench.main_py(HAS_ANSWER)

    done = check(bench)

    assert done.returncode == 0, done.stderr
    assert "no solution to test" in done.stderr
    assert "0 of 1 pass" in done.stdout


def test_tests_that_pass_on_nothing(bench, solution):
    bench.main_py(ALWAYS)

    done = check(bench, "--solution", str(solution), "--json")

    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["problems"] == ["every test passes on an empty workspace: they test nothing"]


def test_flaky_tests(bench, solution):
    bench.main_py(FLAKY)

    done = check(bench, "--solution", str(solution), "--repeat", "3")

    assert done.returncode == 1, done.stderr
    assert "the same solution gave different results in 3 runs: the tests are flaky" in done.stdout


def test_no_test(bench, solution):
    bench.main_py("import envoi\n")

    done = check(bench, "--solution", str(solution))

    assert done.returncode in (1, 4), done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "test" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--solution", "gone"], "there is no folder gone"),
        (["--repeat", "0"], "--repeat"),
        (["--sandbox", "locl"], "unknown sandbox 'locl'. Did you mean 'local'?"),
    ],
)
def test_wrong_use(bench, words, expected):
    done = check(bench, *words)

    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) <= 2
