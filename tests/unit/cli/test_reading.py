"""`list`, `show` and `graph` over real traces in a real local storage, by the real command line."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from envoi_trace_core.domain.facts import (
    EvaluationRecorded,
    EventsUnparsed,
    Fact,
    PartRecorded,
    SessionBegun,
    TrajectoryBegun,
    TrajectoryEnded,
    TurnBegun,
    UsageRecorded,
)
from envoi_trace_core.domain.parts import (
    ChangedFile,
    EnvoiCall,
    Evaluation,
    Part,
    PathResult,
    RepoCheckpoint,
    TestCounts,
    TokenUsage,
    Trajectory,
)
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState

NOW = datetime.now(UTC).replace(microsecond=0)
EVIL = "\x1b]0;owned\x07\x1b[2Jhello\u202e"
IDS = ("01a20000-aaaa-7000-8000-000000000001", "01a20000-bbbb-7000-8000-000000000002")


def git(folder: Path, *words: str) -> str:
    environment = {
        **os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null",
    }  # fmt: skip
    done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def commits(tmp_path: Path) -> tuple[str, str, Path]:
    """Two commits, and the bundle that holds them."""
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    shas = []
    for text in ("wrong", "right"):
        (repository / "sort.py").write_text(text)
        git(repository, "add", ".")
        git(repository, "commit", "-qm", text)
        shas.append(git(repository, "rev-parse", "HEAD"))
    bundle = tmp_path / "repo.bundle"
    git(repository, "bundle", "create", "-q", str(bundle), "main")
    return shas[0], shas[1], bundle


def facts_of(trajectory_id: str, first: str, second: str, *, started_at: datetime = NOW, **changes: str) -> list[Fact]:
    trajectory = Trajectory(
        trajectory_id=trajectory_id, agent=changes.get("agent", "script"), agent_version="1.0", sandbox="local",
        task="merge_sort", environment=changes.get("environment", "sorting"), task_params='{"n": 3}',
        started_at=started_at, envoi_trace_version="0.1.0", labels={"team": EVIL},
    )  # fmt: skip
    calls = TestCounts(passed=1, failed=2, total=3)

    def part(number: int, **fields: object) -> PartRecorded:
        common = {"part": number, "turn": 1, "session_id": "s", "duration_ms": 340, "event_index": number * 2}
        return PartRecorded(part=Part(**{"git_commit": first, "timestamp": started_at, **common, **fields}))

    return [
        TrajectoryBegun(trajectory=trajectory, test_paths=("a/x", "a/y")),
        SessionBegun(session_id="s", at=started_at),
        TurnBegun(turn=1, session_id="s", prompt="Sort the numbers.", at=started_at),
        part(1, part_type="reasoning", summary=EVIL, content=f"line one\n{EVIL}"),
        part(
            2, part_type="patch", summary="sort.py", patch="--- a\n+++ b\n",
            repo_checkpoint=RepoCheckpoint(
                commit_before="0" * 40, commit_after=first, skipped_files=("big.bin",),
                changed_files=(ChangedFile(path="sort.py", status="added", additions=1, deletions=0),),
            ),
        ),
        part(
            3, part_type="tool", tool_name="shell", tool_status="failed", tool_exit_code=1, summary="make",
            tool_input='{"command": "make"}', tool_output="no rule\n", tool_error="it failed",
        ),
        part(
            4, part_type="tool", tool_name="run_tests", tool_status="completed", summary="run_tests a",
            envoi_calls=(
                EnvoiCall(call_id="c", path="a", commit=first, timestamp=started_at, duration_ms=5, status_code=200,
                          error=None, counts=calls, results=(PathResult(path="a/x", counts=calls, error="boom"),)),
            ),
        ),
        part(
            5, part_type="patch", summary="sort.py again", git_commit=second,
            repo_checkpoint=RepoCheckpoint(commit_before=first, commit_after=second),
        ),
        UsageRecorded(part=3, usage=TokenUsage(input=900, cached_input=100, output=50, total=950), cost_usd=0.01,
                      event_index=6),
        EventsUnparsed(event_index=7, reason="strange"),
        EvaluationRecorded(
            evaluation=Evaluation(commit=second, status="completed", counts=TestCounts(passed=3, total=3),
                                  results=(PathResult(path="a/x", counts=TestCounts(passed=3, total=3)),))
        ),
        TrajectoryEnded(
            reason="part_limit", total_parts=5, total_turns=1, final_commit=second,
            at=started_at + timedelta(seconds=83),
        ),
    ]  # fmt: skip


def store(folder: Path, facts: list[Fact], bundle: Path | None = None) -> Path:
    state = TraceState.of(facts)
    target = folder / "trajectories" / state.trajectory.trajectory_id
    target.mkdir(parents=True)
    (target / "trace.parquet").write_bytes(encode_trace(state.snapshot()))
    if bundle is not None:
        (target / "repo.bundle").write_bytes(bundle.read_bytes())
    return target


@pytest.fixture
def stored(folder: Path, commits) -> Path:
    """One whole trajectory in the working directory's storage."""
    first, second, bundle = commits
    return store(folder, facts_of(IDS[0], first, second), bundle)


# -- show ------------------------------------------------------------------------------------------


def test_show_gives_a_header_and_a_line_a_part(cli, stored, commits):
    done = cli("show", IDS[0][:10])

    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert text.startswith(IDS[0] + "\n")
    for words in (
        ("agent", "script 1.0"), ("task", "merge_sort", '{"n": 3}'), ("environment", "sorting"),
        ("reason", "part_limit"), ("parts", "5 in 1 turn"), ("solved", "1/2 paths"), ("started", "took 1m 23s"),
        ("tokens", "950 (900 in, 100 of it cached, 50 out)"), ("cost", "$0.0100"), ("unparsed", "1 event"),
    ):  # fmt: skip
        [line] = [line for line in text.splitlines() if line.startswith(words[0] + " ")]
        assert all(word in line for word in words)
    rows = [line.split() for line in text.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[2][2:6] == ["tool", "shell", "exit", "1"]
    assert rows[3][2:7] == ["tool", "run_tests", "completed", commits[0][:8], "1/3"]
    assert rows[4][2:5] == ["patch", commits[1][:8], "3/3"]
    assert "storage: local" in done.stderr


def test_show_of_a_part_has_all_of_it(cli, stored, commits):
    patch = cli("show", IDS[0], "--part", "2").stdout
    for word in ("part 2 turn 1 patch", commits[0], "added", "+1 -0", "sort.py", "skipped", "big.bin", "--- a\n+++ b"):
        assert word in patch
    tool = cli("show", IDS[0], "--part", "3").stdout
    for word in ("exit 1", "command: make", "no rule", "it failed", "950 ("):
        assert word in tool
    tests = cli("show", IDS[0], "--part", "4").stdout
    for word in ("run_tests a", "1/3 passed, status 200", commits[0]):
        assert word in tests
    assert "evaluation of its commit" in cli("show", IDS[0], "--part", "5").stdout
    assert "Sort the numbers." in cli("show", IDS[0], "--part", "1").stdout


@pytest.mark.parametrize("words", [["show", IDS[0]], ["show", IDS[0], "--part", "1"]])
def test_what_the_agent_wrote_does_not_reach_the_terminal(cli, stored, words):
    text = cli(*words).stdout

    assert "hello" in text
    assert "\\x1b[2J" in text
    for char in "\x1b\x07\u202e":
        assert char not in text


def test_show_as_json(cli, stored, commits):
    whole = json.loads(cli("show", IDS[0], "--json").stdout)
    assert whole["trajectory_id"] == IDS[0]
    assert whole["session_end_reason"] == "part_limit"
    assert whole["unparsed_events"] == 1
    assert [row["part"] for row in whole["parts"]] == [1, 2, 3, 4, 5]
    assert whole["parts"][2]["token_usage"]["total"] == 950
    assert whole["parts"][0]["summary"] == EVIL

    one = json.loads(cli("show", IDS[0], "--part", "5", "--json").stdout)
    assert one["evaluation"]["counts"] == {"passed": 3, "failed": 0, "total": 3}
    assert one["git_commit"] == commits[1]


def test_show_takes_a_path(cli, stored, folder):
    for word in (stored / "trace.parquet", stored):
        done = cli("show", str(word))
        assert done.returncode == 0
        assert done.stdout.startswith(IDS[0])
        assert done.stderr == ""


def test_a_trajectory_without_a_part_says_why(cli, folder, commits):
    facts = facts_of(IDS[0], *commits[:2])
    ended = TrajectoryEnded(
        reason="envoi_error", message="setup.sh failed", total_parts=0, total_turns=0, final_commit=None, at=NOW
    )
    store(folder, [facts[0], ended])
    text = cli("show", IDS[0]).stdout
    assert "envoi_error" in text
    assert "setup.sh failed" in text


# -- list ------------------------------------------------------------------------------------------


def test_list_is_newest_first_and_filters(cli, folder, stored, commits):
    older = facts_of(IDS[1], *commits[:2], started_at=NOW - timedelta(days=3), agent="codex", environment="other")[:-1]
    store(folder, older)

    rows = [line.split() for line in cli("list").stdout.splitlines()]
    assert rows[0] == ["id", "agent", "model", "environment", "parts", "solved", "reason", "age"]
    assert rows[1][:7] == [IDS[0], "script", "-", "sorting", "5", "1/2", "part_limit"]
    assert rows[2] == [IDS[1], "codex", "-", "other", "5", "1/2", "in", "progress", "3d"]

    def ids(*words: str) -> list[str]:
        return [row["trajectory_id"] for row in json.loads(cli("list", "--json", *words).stdout)]

    assert ids() == [IDS[0], IDS[1]]
    assert ids("--agent", "codex") == [IDS[1]]
    assert ids("--environment", "sorting") == [IDS[0]]
    assert ids("--reason", "part_limit") == [IDS[0]]
    assert ids("--reason", "in progress") == [IDS[1]]
    assert ids("--since", "1d") == [IDS[0]]
    assert ids("--since", "9d") == [IDS[0], IDS[1]]
    assert ids("--agent", "nobody") == []


def test_list_of_nothing(cli, folder):
    done = cli("list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no trajectories" in done.stderr
    assert json.loads(cli("list", "--json").stdout) == []
    assert list(folder.iterdir()) == []


def test_a_damaged_trace_is_left_out_with_a_warning(cli, folder, stored):
    broken = folder / "trajectories" / "broken"
    broken.mkdir()
    (broken / "trace.parquet").write_bytes(b"PAR1 nonsense")
    done = cli("list")
    assert done.returncode == 0
    assert IDS[0] in done.stdout
    assert "warning: broken is left out" in done.stderr


# -- graph -----------------------------------------------------------------------------------------


def test_graph_checks_out_the_repository_at_a_part(cli, folder, stored):
    done = cli("graph", IDS[0], "--part", "4", "--checkout-dest", "at4")
    assert done.returncode == 0, done.stderr
    assert [(path.name, path.read_text()) for path in (folder / "at4").iterdir()] == [("sort.py", "wrong")]

    path = str(stored / "trace.parquet")
    assert cli("graph", path, "--part", "5", "--checkout-dest", "at5").returncode == 0
    assert (folder / "at5" / "sort.py").read_text() == "right"


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["show", "nothing-like-it"], 2, "unknown trajectory 'nothing-like-it'"),
        (["show", IDS[0], "--part", "6"], 2, "part 6 is out of range"),
        (["show", IDS[0], "--part", "0"], 2, "part 0 is out of range"),
        (["graph", IDS[0], "--part", "99", "--checkout-dest", "new"], 2, "part 99 is out of range"),
        (["graph", IDS[0], "--part", "1", "--checkout-dest", "trajectories"], 2, "is not empty"),
        (["show", "no-trace.txt"], 1, "no parquet file, so it is no trace"),
        (["show", "01a20000"], 2, "2 trajectories begin with '01a20000'"),
        (["graph", IDS[1], "--part", "1", "--checkout-dest", "new"], 2, "has no repo.bundle"),
        (["list", "--storage-opt", "rot=x"], 2, "unknown option 'rot' of storage 'local'. Did you mean 'root'?"),
    ],
)
def test_bad_input_is_two_lines_and_leaves_nothing(cli, folder, stored, commits, words, status, expected):
    store(folder, facts_of(IDS[1], *commits[:2])[:-1])
    (folder / "no-trace.txt").write_text("just a text file")
    before = sorted(folder.rglob("*"))

    done = cli(*words)

    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("storage: ", "warning: "))]
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert len(lines) <= 2
    assert done.stdout == ""
    assert sorted(folder.rglob("*")) == before
