"""What a user gets wrong: two lines that say what, why and what mends it, the status, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

UNPRICED_AGENT = """
from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.specs import AgentSpec, NoOptions

@hookimpl
def envoi_trace_agents():
    yield AgentSpec(name="unpriced", summary="s", options=NoOptions, event_format="script-events", create=None)
"""


def nothing(_bench: Any) -> None:
    """As it is."""


def no_prompt(bench: Any) -> None:
    (bench.task / "en.md").unlink()


def no_main(bench: Any) -> None:
    (bench.environment / "main.py").unlink()


def no_script(bench: Any) -> None:
    (bench.task / "script.jsonl").unlink()


def prompt(text: str) -> Callable[[Any], None]:
    return lambda bench: (bench.task / "en.md").write_text(text)


def task_py(text: str) -> Callable[[Any], None]:
    return lambda bench: (bench.task / "task.py").write_text(text)


def bad_script(bench: Any) -> None:
    (bench.task / "script.jsonl").write_text('{"text": "fine"}\n{"txt": "not fine"}\n')


def bad_settings(bench: Any) -> None:
    (bench.environment / "envoi-trace.toml").write_text('hiden = ["x/*"]\n')


CASES: dict[str, tuple[Callable[[Any], None], list[str], list[str]]] = {
    "no task folder": (nothing, ["--task", "gone/task"], ["there is no task folder", "gone/task", "mend: --task PATH"]),
    "no environment folder": (nothing, ["--env", "gone/env"], ["no environment folder", "gone/env", "--env PATH"]),
    "no main.py": (no_main, [], ["has no main.py"]),
    "no prompt": (no_prompt, [], ["has no prompt: looked for task.py, en.md and prompt.md", "mend: write"]),
    "no prompt in that language": (nothing, ["--lang", "fr"], ["fr.md", "mend: --lang en"]),
    "task.py raises": (
        task_py("def generate():\n    raise ValueError('no such level')\n"), [], ["ValueError: no such level"],
    ),
    "task.py does not import": (task_py("import nothing_of_that_name\n"), [], ["nothing_of_that_name"]),
    "placeholder without a parameter": (prompt("Sort {what}."), [], ["{what}", "--param what="]),
    "parameter without a placeholder": (nothing, ["--param", "size=3"], ["--param size", "makes no use of it"]),
    "parameter without a value": (nothing, ["--param", "size"], ["--param 'size' is not KEY=VALUE"]),
    "label without a value": (nothing, ["--label", "x"], ["--label 'x' is not KEY=VALUE"]),
    "unknown agent": (nothing, ["--agent", "scrpt"], ["unknown agent 'scrpt'. Did you mean 'script'?"]),
    "unknown sandbox": (nothing, ["--sandbox", "locl"], ["unknown sandbox 'locl'. Did you mean 'local'?"]),
    "unknown storage": (nothing, ["--storage", "locl"], ["unknown storage 'locl'. Did you mean 'local'?"]),
    "unknown option of the agent": (nothing, ["--agent-opt", "scipt=x"], ["scipt", "Did you mean 'script'?"]),
    "unknown option of the sandbox": (
        nothing, ["--sandbox-opt", "isolatoin=none"], ["isolatoin", "Did you mean 'isolation'?"],
    ),
    "unknown option of the storage": (nothing, ["--storage-opt", "rot=x"], ["rot", "Did you mean 'root'?"]),
    "wrong value of an option": (nothing, ["--sandbox-opt", "isolation=jail"], ["isolation", "jail", "bwrap"]),
    "an id that is no name": (nothing, ["--trajectory-id", "../elsewhere"], ["../elsewhere"]),
    "a sandbox as environment": (nothing, ["--env", "local"], ["'local' is a sandbox", "--sandbox local --env PATH"]),
    "no script": (no_script, [], ["script.jsonl"]),
    "a bad line in the script": (bad_script, [], ["script.jsonl:2: unknown action 'txt'"]),
    "a wrong key in the environment's settings": (bad_settings, [], ["hiden", "Did you mean 'hidden'?"]),
    "detached on this machine": (
        nothing, ["--detach", "--launcher", "local"], ["--detach needs a launcher", "nohup"]
    ),
    "wrong flag": (nothing, ["--max-prts", "3"], ["no such option: --max-prts"]),
    "storage in a file": (nothing, ["--storage-opt", "root=/dev/null/x"], ["/dev/null/x", "--storage-opt root="]),
}  # fmt: skip


def assert_words(stderr: str, expected: list[str]) -> None:
    lines = [line for line in stderr.splitlines() if not line.startswith(("storage: ", "warning: "))]
    assert lines, stderr
    assert lines[0].startswith("error: "), stderr
    assert len(lines) <= 2, stderr
    assert all(line.startswith("  mend: ") for line in lines[1:]), stderr
    assert "Traceback" not in stderr
    for words in expected:
        assert words in "\n".join(lines)


def assert_nothing_left(bench: Any) -> None:
    assert list(bench.root.iterdir()) == []
    assert not list(bench.state.glob("trajectories/*"))
    assert bench.sandboxes() == []
    assert bench.processes() == []


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_started(bench, case):
    prepare, words, expected = CASES[case]
    bench.script({"text": "hello"})
    prepare(bench)

    run = bench.run(*words)

    assert run.exit_status == 2, run.stderr
    assert run.stdout == ""
    assert_words(run.stderr, expected)
    assert_nothing_left(bench)


def test_a_cost_budget_without_a_price(bench, tmp_path, monkeypatch):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "unpriced_plugin.py").write_text(UNPRICED_AGENT)
    info = tmp_path / "fake" / "unpriced-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unpriced\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[envoi_trace]\nunpriced = unpriced_plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    run = bench.run("--agent", "unpriced", "--max-cost-usd", "5")

    assert run.exit_status == 2
    assert_words(run.stderr, ["--max-cost-usd needs a price", "--agent-opt price=in:"])
    assert_nothing_left(bench)


@pytest.mark.parametrize(
    ("main_py", "expected"),
    [("import nothing_of_that_name\n", "nothing_of_that_name"), ("def broken(:\n", "SyntaxError"), ("x = 1\n", "test")],
    ids=["does not import", "syntax error", "no test"],
)
def test_an_environment_that_does_not_come_up(bench, main_py, expected):
    """Something ran, so it is the harness's failure, with the environment's own words, before the agent starts."""
    bench.script({"write": "answer.txt", "content": "42"})
    bench.main_py(main_py)

    run = bench.run()

    assert run.exit_status == 4, run.stderr
    assert run.summary["reason"] == "envoi_error"
    assert expected in run.stderr
    assert "Traceback" not in "".join(line for line in run.stderr.splitlines() if line.startswith("error"))
    assert run.summary["parts"] == 0
    assert bench.sandboxes() == []
    assert bench.processes() == []


@pytest.fixture
def finished(bench):
    bench.script({"write": "answer.txt", "content": "42"})
    run = bench.run("--max-turns", "1")
    assert run.summary["parts"] == 1, run.stderr
    return run


def test_reading_what_is_not_there(bench, finished, tmp_path):
    (tmp_path / "no-trace.parquet").write_bytes(b"PAR1 this is none PAR1")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    before = sorted(path for path in bench.root.rglob("*"))
    for words, statuses, expected in [
        (["show", "nosuch"], (2,), "nosuch"),
        (["show", "t1", "--part", "7"], (2,), "part"),
        (["show", str(tmp_path / "no-trace.parquet")], (1, 2), "no-trace.parquet"),
        (["graph", "t1", "--part", "7", "--checkout-dest", str(tmp_path / "new")], (2,), "part"),
        (["graph", "t1", "--part", "1", "--checkout-dest", str(full)], (2,), "is not empty"),
    ]:
        done = bench.cli(*words)
        assert done.returncode in statuses, (words, done.stderr)
        assert_words(done.stderr, [expected])
        assert done.stdout == ""
    assert not (tmp_path / "new").exists()
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    assert sorted(path for path in bench.root.rglob("*")) == before


def test_no_space_left(bench):
    """The storage is on a full disk: it is said in words, and no sandbox stays."""
    probe = ["bwrap", "--dev-bind", "/", "/", "--size", "65536", "--tmpfs", str(bench.root), "true"]
    if shutil.which("bwrap") is None or subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs bubblewrap with --size")
    bench.script({"write": "answer.txt", "content": "42"})
    fill = 'dd if=/dev/zero of="$0/filler" bs=1k 2>/dev/null; cd "$0" && exec "$@"'
    words = bench.argv("--sandbox-opt", "isolation=none")

    done = subprocess.run(
        [*probe[:-1], "sh", "-c", fill, str(bench.root), *words],
        env=os.environ | bench.environ, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip

    assert done.returncode in (1, 5), done.stderr
    assert "no space left" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert bench.sandboxes() == []
    assert bench.processes() == []
    assert list(Path(bench.root).iterdir()) == []
