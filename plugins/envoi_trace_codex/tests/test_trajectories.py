"""Whole trajectories by the real command, with the real Codex on the merge_sort example."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from codex_harness import CANARY
from codex_scripted_model import (
    Call,
    Custom,
    Failure,
    Message,
    Reasoning,
    Request,
    ScriptedModel,
    answer,
    patch,
    shell,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

REPOSITORY = Path(__file__).parents[3]

SOLUTION = """\
import sys


def key(line):
    return int(line.split()[0])


def merge_sort(lines):
    if len(lines) < 2:
        return lines
    left, right = merge_sort(lines[: len(lines) // 2]), merge_sort(lines[len(lines) // 2 :])
    merged = []
    i = j = 0
    while i < len(left) and j < len(right):
        if key(left[i]) <= key(right[j]):
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]


sys.stdout.write("".join(line + "\\n" for line in merge_sort(sys.stdin.read().splitlines())))
"""
WRONG = SOLUTION.replace("int(line.split()[0])", "line.split()[0]")

NEVER_SOLVED = """
import envoi

suite = envoi.suite("files")

@suite.test()
async def never():
    return {"passed": 0, "failed": 1, "total": 1}
"""


def added(path: str, text: str) -> Custom:
    """A patch that adds a file."""
    return patch(f"*** Add File: {path}", *(f"+{line}" for line in text.splitlines()))


@attrs.define
class Finished:
    """What a run gave."""

    exit_status: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.stdout.strip().splitlines()[-1])

    @property
    def rows(self) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "trace.parquet").to_pylist()

    @property
    def total_tokens(self) -> int:
        return sum((row["token_usage"] or {}).get("total") or 0 for row in self.rows)

    def file_at(self, commit: str, path: str, tmp: Path) -> str:
        """A file of a commit, from repo.bundle."""
        clone = tmp / "clone"
        if not clone.exists():
            subprocess.run(["git", "clone", "-q", "--mirror", self.folder / "repo.bundle", clone], check=True)
        shown = subprocess.run(
            ["git", "-C", clone, "show", f"{commit}:{path}"], capture_output=True, text=True, check=False
        )
        return shown.stdout if shown.returncode == 0 else ""


@attrs.define
class Bench:
    """Where runs happen: a working directory, a state directory, and the model's address."""

    root: Path
    model: ScriptedModel
    task: Path = REPOSITORY / "examples" / "tasks" / "merge_sort"
    environment: Path = REPOSITORY / "examples" / "environments" / "merge_sort"

    def argv(self, *more: str) -> list[str]:
        return [
            str(Path(sys.executable).parent / "envoi-trace"),
            "--task", str(self.task), "--env", str(self.environment),
            "--agent", "codex", "--model", "gpt-5.5", "--sandbox", "local", "--storage", "local",
            "--agent-opt", f"base_url={self.model.base_url}",
            "--agent-opt", "request_retries=1", "--agent-opt", "stream_retries=1",
            "--trajectory-id", "t1", "--json", "--no-auto-resume", *more,
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        return {
            **os.environ,
            "HOME": str(home),
            "ENVOI_TRACE_STATE_DIR": str(self.root / "state"),
            "CODEX_API_KEY": CANARY,
        }

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*more), cwd=self.root, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, process: subprocess.Popen[str]) -> Finished:
        stdout, stderr = process.communicate(timeout=150)
        return Finished(process.returncode, stdout, stderr, self.root / "trajectories" / "t1")

    def run(self, *more: str) -> Finished:
        return self.finish(self.start(*more))

    def processes(self, word: str) -> list[str]:
        """Command lines of this machine's processes that hold a word."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if word in words:
                found.append(words)
        return found


@pytest.fixture
def bench(tmp_path: Path, model: ScriptedModel) -> Iterator[Bench]:
    made = Bench(tmp_path, model)
    yield made
    command = [str(Path(sys.executable).parent / "envoi-trace"), "cleanup", "--yes"]
    subprocess.run(command, cwd=tmp_path, env=made.environ, capture_output=True, check=False, timeout=60)


@pytest.fixture
def endless(bench: Bench, tmp_path: Path) -> Bench:
    """A bench whose environment nothing solves, and whose checkpoints cost no tests that take long."""
    task, environment = tmp_path / "task", tmp_path / "env"
    task.mkdir()
    environment.mkdir()
    (task / "en.md").write_text("Count.")
    (environment / "main.py").write_text(NEVER_SOLVED)
    return attrs.evolve(bench, task=task, environment=environment)


def run_tests(path: str = "") -> Call:
    return Call("run_tests", {"path": path}, "mcp__tests")


def test_merge_sort_is_solved_with_every_kind_of_part(bench: Bench, tmp_path: Path) -> None:
    bench.model.play(
        answer(Reasoning("Sort stably."), shell("echo looking")),
        answer(shell("cat merge_sort.py")),
        answer(added("merge_sort.py", WRONG)),
        answer(patch("*** Update File: missing.py", "@@", "-a", "+b")),
        answer(run_tests("basics")),
        answer(
            patch(
                "*** Update File: merge_sort.py",
                "@@",
                "-    return line.split()[0]",
                "+    return int(line.split()[0])",
            )
        ),
        answer(run_tests()),
        answer(Message("All tests pass.")),
    )
    done = bench.run()
    assert done.exit_status == 0, done.stderr
    assert done.summary["reason"] == "solved"
    rows = done.rows
    assert [(row["part_type"], row["tool_name"], row["tool_status"]) for row in rows][:7] == [
        ("reasoning", None, None),
        ("tool", "shell", "completed"),
        ("tool", "shell", "failed"),
        ("patch", "apply_patch", "completed"),
        ("patch", "apply_patch", "failed"),
        ("tool", "run_tests", "completed"),
        ("patch", "apply_patch", "completed"),
    ]
    assert rows[1]["tool_output"] == "looking\n"
    assert rows[2]["tool_exit_code"] == 1
    assert "verification failed" in rows[4]["tool_error"]
    (call,) = rows[5]["envoi_calls"]
    assert call["path"] == "basics"
    assert call["failed"] > 0
    assert {row["agent_version"] for row in rows} == {"0.163.0"}
    assert done.file_at(rows[3]["git_commit"], "merge_sort.py", tmp_path) == WRONG
    assert done.file_at(rows[4]["git_commit"], "merge_sort.py", tmp_path) == WRONG
    assert done.file_at(rows[6]["git_commit"], "merge_sort.py", tmp_path) == SOLUTION
    answered = len(bench.model.requests)
    assert done.total_tokens in (answered * 1050, (answered - 1) * 1050)  # the run may end in the middle of the last
    assert done.summary["token_usage"]["total"] == done.total_tokens


def test_fifty_changes_are_fifty_exact_commits(endless: Bench, tmp_path: Path) -> None:
    changes = [answer(shell(f"echo {n} > file.txt")) for n in range(25)]
    changes += [answer(patch("*** Update File: file.txt", "@@", f"-{n - 1}", f"+{n}")) for n in range(25, 50)]
    endless.model.play(*changes, answer(Message("done")))
    done = endless.run("--max-turns", "1")
    assert done.summary["reason"] == "turn_limit", done.stderr
    commits = [row["git_commit"] for row in done.rows if row["repo_checkpoint"]]
    assert len(set(commits)) == 50
    assert [done.file_at(commit, "file.txt", tmp_path) for commit in commits] == [f"{n}\n" for n in range(50)]
    assert done.total_tokens == 51 * 1050


def test_a_code_mode_model_solves_it(bench: Bench) -> None:
    script = f"await tools.apply_patch({json.dumps(added('merge_sort.py', SOLUTION).input)}); text('written')"
    bench.model.play(answer(Reasoning("hm"), Custom("exec", script)), answer(Message("Done.")))
    done = bench.run("--model", "gpt-6-sol")
    assert done.summary["reason"] == "solved", done.stderr
    kinds = [(row["part_type"], row["tool_name"]) for row in done.rows]
    assert kinds[:2] == [("reasoning", None), ("patch", "apply_patch")]
    assert done.rows[1]["repo_checkpoint"]["changed_files"][0]["path"] == "merge_sort.py"


def test_the_follow_up_prompt_tells_how_the_tests_stand(bench: Bench) -> None:
    bench.model.play(
        answer(added("merge_sort.py", WRONG)), answer(Message("I think it is done.")), answer(Message("Still done."))
    )
    done = bench.run("--max-turns", "2")
    assert done.summary["reason"] == "turn_limit", done.stderr
    assert done.summary["turns"] == 2
    (prompt,) = [row["turn_prompt"] for row in done.rows if row["turn"] == 2 and row["turn_prompt"]]
    asked = bench.model.requests[-1].body["input"][-1]["content"][0]["text"]
    assert asked == prompt
    assert "basics" in prompt


def test_the_part_limit_interrupts_a_long_command(endless: Bench) -> None:
    endless.model.play(
        answer(Message("one"), Message("two"), shell("sleep 9137", yield_time_ms=30000)), answer(Message("never"))
    )
    done = endless.run("--max-parts", "2")
    assert done.exit_status == 0, done.stderr
    assert done.summary["reason"] == "part_limit"
    assert [row["content"] for row in done.rows] == ["one", "two"]
    assert endless.processes("sleep 9137") == []
    assert endless.processes(str(endless.root / "state")) == []


def test_a_turn_timeout_interrupts_a_long_command(endless: Bench) -> None:
    endless.model.play(answer(Message("one"), shell("sleep 9138", yield_time_ms=30000)), answer(Message("never")))
    done = endless.run("--turn-timeout", "6")
    assert done.summary["reason"] == "timeout", done.stderr
    assert [row["content"] for row in done.rows][:1] == ["one"]
    assert endless.processes("sleep 9138") == []


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    os.kill(process.pid, number)
    process.communicate(timeout=60)


def seen(bench: Bench, requests: int) -> Callable[[], bool]:
    return lambda: len(bench.model.requests) >= requests


def test_kill_9_of_the_orchestrator_and_the_same_command_again(endless: Bench) -> None:
    go_on = threading.Event()
    endless.model.play(
        answer(shell("echo 1 > file.txt")),
        answer(Message("begun"), shell("echo 2 > file.txt"), gate=go_on),
        answer(Message("done")),
        answer(Message("more")),
    )
    process = endless.start("--max-turns", "1")
    wait_until(seen(endless, 2), 60)
    time.sleep(0.3)  # let it record what came
    kill(process)
    go_on.set()
    done = endless.run("--max-turns", "1")
    assert done.exit_status == 0, done.stderr
    rows = done.rows
    assert [row["content"] or row["tool_name"] for row in rows][:4] == ["shell", "begun", "shell", "done"]
    assert [row["part"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["session_id"] for row in rows}) == 1
    assert len(endless.model.requests) == 3
    assert done.total_tokens == 3 * 1050


def codex_pids(bench: Bench) -> list[int]:
    """Of the app-servers in a bench's sandboxes: their mounts name the bench's folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            mounts = (folder / "mountinfo").read_text()
        except OSError:
            continue
        if words[0].endswith(b"/codex") and b"app-server" in words and str(bench.root) in mounts:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("turns_before", [0, 1])
def test_kill_9_of_codex_goes_on_in_the_same_thread(endless: Bench, turns_before: int) -> None:
    before = [answer(Message("a whole turn"))] * turns_before
    held = answer(Message("begun"), gate=threading.Event())
    endless.model.play(*before, answer(shell("echo 1 > file.txt")), held)
    process = endless.start("--max-turns", str(turns_before + 1), "--auto-resume", "--restart-delay", "0.2")
    wait_until(seen(endless, turns_before + 2), 60)
    endless.model.play(answer(Message("I went on")))
    (pid,) = codex_pids(endless)
    os.kill(pid, signal.SIGKILL)
    done = endless.finish(process)
    assert done.exit_status == 0, done.stderr
    rows = done.rows
    assert rows[turns_before]["tool_name"] == "shell"
    assert rows[-1]["content"] == "I went on"
    assert [row["part"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["session_id"] for row in rows}) == 1
    assert ("a whole turn" if turns_before else "echo 1 > file.txt") in endless.model.requests[-1].text


def test_a_failure_ends_the_run_in_codex_own_words(endless: Bench) -> None:
    endless.model.play(*[Failure(401, {"message": "bad key", "type": "invalid_request_error"})] * 20)
    done = endless.run()
    assert done.exit_status == 3
    assert done.summary["reason"] == "agent_error"
    assert "401 Unauthorized: bad key" in done.stderr
    assert "CODEX_API_KEY" in done.stderr


def test_no_credentials_start_nothing(endless: Bench) -> None:
    argv = [word for word in endless.argv() if "base_url=" not in word]
    argv.remove("--agent-opt")
    environ = {name: value for name, value in endless.environ.items() if name != "CODEX_API_KEY"}
    done = subprocess.run(argv, cwd=endless.root, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no credentials for Codex" in done.stderr
    assert not (endless.root / "trajectories").exists()


def test_the_key_is_in_no_artifact(endless: Bench) -> None:
    def leak(request: Request) -> Any:
        return answer(Message(f"your key is {request.headers['authorization']}"), shell("env > env.txt; cat env.txt"))

    endless.model.play(leak, answer(Message("done")))
    done = endless.run("--max-turns", "1")
    assert done.exit_status == 0, done.stderr
    for path in [*done.folder.rglob("*"), *(endless.root / "state").rglob("*")]:
        if path.is_file():
            assert CANARY.encode() not in content(path), path
    assert CANARY not in done.stdout + done.stderr
    assert [row["tool_output"] for row in done.rows if row["tool_name"] == "shell"]
    assert CANARY not in json.dumps(done.rows, default=str)


def content(path: Path) -> bytes:
    import zstandard

    data = path.read_bytes()
    return zstandard.ZstdDecompressor().stream_reader(data).read() if path.suffix == ".zst" else data
