"""Whole trajectories by the real command, with the real OpenCode on the merge_sort example."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from opencode_harness import CANARY
from opencode_scripted_model import Answer, Call, Failure, Request, ScriptedModel, answer, shell, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

REPOSITORY = Path(__file__).parents[3]

SOLUTION = """\
import sys


def key(line):
    return int(line.split()[0])


sys.stdout.write("".join(line + "\\n" for line in sorted(sys.stdin.read().splitlines(), key=key)))
"""
WRONG = SOLUTION.replace("int(line.split()[0])", "line.split()[0]")

NEVER_SOLVED = """
import envoi

suite = envoi.suite("files")

@suite.test()
async def never():
    return {"passed": 0, "failed": 1, "total": 1}
"""


def write(path: str, content: str) -> Call:
    return Call("write", {"filePath": path, "content": content})


def edit(path: str, old: str, new: str) -> Call:
    return Call("edit", {"filePath": path, "oldString": old, "newString": new})


def run_tests(path: str = "") -> Call:
    return Call("tests_run_tests", {"path": path})


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
        argv = ["git", "-C", clone, "show", f"{commit}:{path}"]
        shown = subprocess.run(argv, capture_output=True, text=True, check=False)
        return shown.stdout if shown.returncode == 0 else ""


@attrs.define
class Bench:
    """Where runs happen: a working directory, a state directory, the model's address, OpenCode's package."""

    root: Path
    model: ScriptedModel
    package: Path
    task: Path = REPOSITORY / "examples" / "tasks" / "merge_sort"
    environment: Path = REPOSITORY / "examples" / "environments" / "merge_sort"

    def argv(self, *more: str) -> list[str]:
        return [
            str(Path(sys.executable).parent / "envoi-trace"),
            "--task", str(self.task), "--env", str(self.environment),
            "--agent", "opencode", "--model", "acme/scripted", "--storage", "local",
            "--sandbox", "local", "--sandbox-opt", f"read={self.package}",
            "--agent-opt", f"base_url={self.model.base_url}",
            "--trajectory-id", "t1", "--json", "--no-auto-resume", *more,
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        state = str(self.root / "state")
        return {**os.environ, "HOME": str(home), "ENVOI_TRACE_STATE_DIR": state, "ACME_API_KEY": CANARY}

    def start(self, *more: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self.argv(*more), cwd=self.root, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def finish(self, process: subprocess.Popen[str]) -> Finished:
        stdout, stderr = process.communicate(timeout=150)
        return Finished(process.returncode, stdout, stderr, self.root / "trajectories" / "t1")

    def run(self, *more: str) -> Finished:
        return self.finish(self.start(*more))

    def processes(self, word: str) -> list[int]:
        """Processes of this machine in this bench's sandboxes, whose command line holds a word."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                mounts = (folder / "mountinfo").read_text()
            except OSError:
                continue
            if word in words and str(self.root) in mounts:
                found.append(int(folder.name))
        return found


@pytest.fixture
def bench(tmp_path: Path, model: ScriptedModel, opencode_package: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, model, opencode_package)
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


def test_merge_sort_is_solved_with_every_kind_of_part(bench: Bench, tmp_path: Path) -> None:
    path = "/workspace/merge_sort.py"
    bench.model.script(
        Answer(reasoning="Sort stably.", text="I begin.", calls=[shell("echo looking")]),
        answer(shell("cat merge_sort.py")),
        answer(write(path, WRONG)),
        answer(edit(path, "not there", "x")),
        answer(run_tests("basics")),
        answer(edit(path, "return line.split()[0]", "return int(line.split()[0])")),
        answer(run_tests()),
        Answer(text="All tests pass."),
    )
    done = bench.run()
    assert done.exit_status == 0, done.stderr
    assert done.summary["reason"] == "solved"
    rows = [row for row in done.rows if row["part_type"] != "tool_use"]
    told = [(row["part_type"], row["tool_name"], row["tool_status"]) for row in rows]
    assert set(told[:3]) == {("reasoning", None, None), ("text", None, None), ("tool_result", "bash", "completed")}
    assert told[3:8] == [
        ("tool_result", "bash", "completed"),
        ("patch", "write", "completed"),
        ("tool_result", "edit", "failed"),
        ("tool_result", "run_tests", "completed"),
        ("patch", "edit", "completed"),
    ]
    assert rows[3]["tool_exit_code"] == 1
    (call,) = rows[6]["envoi_calls"]
    assert call["path"] == "basics"
    assert call["failed"] > 0
    assert {row["agent_version"] for row in rows} == {"1.18.33"}
    assert done.file_at(rows[4]["git_commit"], "merge_sort.py", tmp_path) == WRONG
    assert done.file_at(rows[5]["git_commit"], "merge_sort.py", tmp_path) == WRONG
    assert done.file_at(rows[7]["git_commit"], "merge_sort.py", tmp_path) == SOLUTION
    answered = len(bench.model.requests)
    assert done.total_tokens in (answered * 1050, (answered - 1) * 1050)  # the run may end in the middle of the last
    assert done.summary["token_usage"]["total"] == done.total_tokens


def test_fifty_changes_are_fifty_exact_commits(endless: Bench, tmp_path: Path) -> None:
    changes = [answer(shell(f"echo {n} > file.txt")) for n in range(25)]
    changes += [answer(edit("/workspace/file.txt", str(n - 1), str(n))) for n in range(25, 50)]
    endless.model.script(*changes, Answer(text="done"))
    done = endless.run("--max-turns", "1")
    assert done.summary["reason"] == "turn_limit", done.stderr
    commits = [row["git_commit"] for row in done.rows if row["repo_checkpoint"]]
    assert [done.file_at(commit, "file.txt", tmp_path) for commit in commits] == [f"{n}\n" for n in range(50)]
    assert done.total_tokens == 51 * 1050


def test_parallel_calls_have_the_commits_of_their_own_ends(endless: Bench, tmp_path: Path) -> None:
    endless.model.script(
        answer(shell("sleep 2; echo slow > slow.txt"), shell("echo fast > fast.txt")), Answer(text="done")
    )
    done = endless.run("--max-turns", "1")
    fast, slow = [row for row in done.rows if row["repo_checkpoint"]]
    assert done.file_at(fast["git_commit"], "fast.txt", tmp_path) == "fast\n"
    assert done.file_at(fast["git_commit"], "slow.txt", tmp_path) == ""
    assert done.file_at(slow["git_commit"], "slow.txt", tmp_path) == "slow\n"


def test_the_follow_up_prompt_tells_how_the_tests_stand(bench: Bench) -> None:
    bench.model.script(
        answer(write("/workspace/merge_sort.py", WRONG)), Answer(text="I think it is done."), Answer(text="Still done.")
    )
    done = bench.run("--max-turns", "2")
    assert done.summary["reason"] == "turn_limit", done.stderr
    assert done.summary["turns"] == 2
    (prompt,) = [row["turn_prompt"] for row in done.rows if row["turn"] == 2 and row["turn_prompt"]]
    assert bench.model.requests[-1].prompts[-1] == prompt
    assert "basics" in prompt


def test_the_part_limit_interrupts_a_long_command(endless: Bench) -> None:
    endless.model.script(Answer(text="one", calls=[shell("sleep 9147")]), Answer(text="never"))
    done = endless.run("--max-parts", "2")
    assert done.exit_status == 0, done.stderr
    assert done.summary["reason"] == "part_limit"
    assert sorted(row["part_type"] for row in done.rows) == ["text", "tool_use"]
    assert endless.processes("") == []


def test_a_turn_timeout_interrupts_a_long_command(endless: Bench) -> None:
    endless.model.script(Answer(text="one", calls=[shell("sleep 9148")]), Answer(text="never"))
    done = endless.run("--turn-timeout", "15")
    assert done.summary["reason"] == "timeout", done.stderr
    assert "one" in [row["content"] for row in done.rows]
    assert endless.processes("") == []


def test_kill_9_of_the_orchestrator_and_the_same_command_again(endless: Bench) -> None:
    endless.model.script(
        answer(shell("echo 1 > file.txt")),
        Answer(text="begun", holds=True, calls=[shell("echo 2 > file.txt")]),
        Answer(text="done"),
        Answer(text="more"),
    )
    process = endless.start("--max-turns", "1")
    wait_until(lambda: len(endless.model.requests) >= 2, 90)
    process.kill()
    process.communicate(timeout=60)
    endless.model.let_go()
    done = endless.run("--max-turns", "1")
    assert done.exit_status == 0, done.stderr
    rows = done.rows
    kinds = [row["content"] or f"{row['part_type']} {row['tool_name']}" for row in rows]
    assert sorted(kinds) == sorted([*["tool_use bash", "tool_result bash"] * 2, "begun", "done"])
    assert [row["part"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["session_id"] for row in rows}) == 1
    assert len(endless.model.requests) == 3
    assert done.total_tokens == 3 * 1050


def test_kill_9_of_the_server_goes_on_in_the_same_session(endless: Bench) -> None:
    endless.model.script(Answer(text="a whole turn"), answer(shell("echo 1 > file.txt; sleep 9149")))
    process = endless.start("--max-turns", "2", "--auto-resume", "--restart-delay", "0.2")
    wait_until(lambda: bool(endless.processes("sleep 9149")), 90)
    endless.model.script(Answer(text="I went on"))
    (pid,) = endless.processes("opencode serve")
    os.kill(pid, signal.SIGKILL)
    done = endless.finish(process)
    assert done.exit_status == 0, done.stderr
    rows = done.rows
    assert [(row["part_type"], row["tool_status"]) for row in rows] == [
        ("text", None),
        ("tool_use", "running"),
        ("tool_result", "interrupted"),
        ("text", None),
    ]
    assert rows[-1]["content"] == "I went on"
    assert len({row["session_id"] for row in rows}) == 1
    assert "a whole turn" in endless.model.requests[-1].text


def test_a_failure_ends_the_run_in_the_servers_words(endless: Bench) -> None:
    endless.model.script(Failure(401, "bad key"))
    done = endless.run()
    assert done.exit_status == 3
    assert done.summary["reason"] == "agent_error"
    assert "bad key" in done.stderr


@pytest.mark.parametrize(
    ("left_out", "said"), [("--model", "PROVIDER/MODEL"), ("--agent-opt", "it is not known where the provider")]
)
def test_wrong_use_starts_nothing(endless: Bench, left_out: str, said: str) -> None:
    argv = endless.argv()
    at = argv.index(left_out)
    del argv[at : at + 2]
    done = subprocess.run(
        argv, cwd=endless.root, env=endless.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr or "--model anthropic/" in done.stderr
    assert not (endless.root / "trajectories").exists()


def test_the_key_is_in_no_artifact(endless: Bench) -> None:
    def leak(request: Request) -> Answer:
        return Answer(
            text=f"your key is {request.headers['authorization']}", calls=[shell("env > env.txt; cat env.txt")]
        )

    endless.model.script(leak, Answer(text="done"))
    done = endless.run("--max-turns", "1")
    assert done.exit_status == 0, done.stderr
    for path in [*done.folder.rglob("*"), *(endless.root / "state").rglob("*")]:
        if path.is_file():
            assert CANARY.encode() not in content(path), path
    assert CANARY not in done.stdout + done.stderr
    assert [row["tool_output"] for row in done.rows if row["part_type"] == "tool_result"]
    assert CANARY not in json.dumps(done.rows, default=str)


def content(path: Path) -> bytes:
    import zstandard

    data = path.read_bytes()
    return zstandard.ZstdDecompressor().stream_reader(data).read() if path.suffix == ".zst" else data
