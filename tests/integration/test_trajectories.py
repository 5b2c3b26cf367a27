"""Whole trajectories by the real command: what is recorded is what happened, exactly."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
MERGE_SORT = REPOSITORY / "examples" / "tasks" / "merge_sort"


def test_merge_sort_is_solved_and_every_row_is_what_the_script_did(bench):
    bench.task, bench.environment = MERGE_SORT, REPOSITORY / "examples" / "environments" / "merge_sort"
    run = bench.run()
    assert run.exit_status == 0, run.stderr
    assert run.summary["reason"] == "solved"

    actions = [json.loads(line) for line in (MERGE_SORT / "script.jsonl").read_text().splitlines()]
    kinds = {
        "reasoning": "reasoning",
        "text": "text",
        "run": "tool",
        "run_tests": "tool",
        "write": "patch",
        "patch": "patch",
    }
    expected = [kinds[word] for action in actions for word in action if word in kinds]
    rows = run.rows
    assert [row["part_type"] for row in rows] == expected
    assert [row["part"] for row in rows] == list(range(1, len(expected) + 1))
    assert rows[-1]["session_end_reason"] == "solved"
    assert rows[-1]["testing_state"]["solved_paths"] == rows[-1]["testing_state"]["total_paths"] > 0

    # The counts are the environment's own: it says so again of the same commit, asked without an agent.
    for row in rows:
        for call in row["envoi_calls"] or ():
            assert call["commit"] == row["git_commit"]
            assert call["passed"] + call["failed"] == call["total"] > 0
    assert [call["passed"] for row in rows for call in row["envoi_calls"] or ()] == [0, 5, 9]
    usage = [action["usage"] for action in actions if "usage" in action]
    assert sum(row["token_usage"]["output"] for row in rows if row["token_usage"]) == sum(u["output"] for u in usage)


def test_each_rows_commit_is_the_workspace_right_after_that_action(bench, tmp_path):
    """Each action lists the workspace that it leaves; the checkout of its commit must give the same listing."""
    changes = [
        "printf 'a\\0b\\xff' > binary.bin",
        "mkdir -p deep/er && echo text > 'deep/er/with space.txt'",
        "ln -s deep/er/'with space.txt' link && chmod +x binary.bin",
        "mv binary.bin renamed.bin",
        "printf x > \"$(printf 'new\\nline')\"",
        "rm -r deep && git init -q . && git add -A && git -c user.name=a -c user.email=a@b commit -qm mine",
        "echo changed > renamed.bin && rm -rf .git && mkdir inner && cd inner && git init -q && echo in > nested.txt",
    ]
    bench.script(*({"run": f"({change}); {{ {SNAPSHOT} ; }}"} for change in changes))
    run = bench.run("--max-turns", "1")
    assert run.exit_status == 0, run.stderr
    rows = [row for row in run.rows if row["part_type"] == "tool"]
    assert len(rows) == len(changes)
    assert len({row["git_commit"] for row in rows}) == len(changes)
    for row in rows:
        destination = tmp_path / f"at-{row['part']}"
        done = bench.cli(
            "graph", "t1", "--part", str(row["part"]), "--checkout-dest", str(destination), "--storage", "local"
        )
        assert done.returncode == 0, done.stderr
        listed = subprocess.run(["sh", "-c", SNAPSHOT], cwd=destination, capture_output=True, text=True, check=True)
        assert listed.stdout == row["tool_output"], f"part {row['part']}"


SNAPSHOT = (
    "find . -name .git -prune -o -type f -exec sha256sum {} + | sort; "
    "find . -name .git -prune -o -type l -exec readlink {} + | sort; "
    "find . -name .git -prune -o -type f -perm -u+x -print | sort"
)
"""A listing of contents, links and executable bits; the same program runs in the sandbox and on the checkout."""


def test_fifty_writes_without_a_pause_are_fifty_exact_commits(bench, tmp_path):
    bench.script(*({"write": "file.txt", "content": f"version {n}\n"} for n in range(50)))
    run = bench.run("--max-parts", "50")
    assert run.exit_status == 0, run.stderr
    commits = [row["git_commit"] for row in run.rows]
    assert len(set(commits)) == 50
    subprocess.run(["git", "clone", "-q", run.folder / "repo.bundle", tmp_path / "clone"], check=True)
    for n, commit in enumerate(commits):
        shown = subprocess.run(
            ["git", "show", f"{commit}:file.txt"], cwd=tmp_path / "clone", capture_output=True, text=True, check=True
        )
        assert shown.stdout == f"version {n}\n"


COLUMNS = [
    *("trajectory_id", "agent", "agent_version", "model", "sandbox", "task", "environment", "task_params"),
    *("started_at", "envoi_trace_version", "forked_from", "forked_at_part", "batch", "trial", "labels"),
    *("task_hash", "environment_hash"),
    *("part", "turn", "turn_prompt", "session_id", "timestamp", "duration_ms", "event_index"),
    *("role", "part_type", "item_type", "summary", "content", "tool_name", "tool_status", "tool_input"),
    *("tool_output", "tool_error", "tool_exit_code", "token_usage", "cost_usd"),
    *("git_commit", "repo_checkpoint", "patch"),
    *("envoi_calls", "testing_state", "evaluation"),
    *("session_end_reason", "session_end_total_parts", "session_end_total_turns", "session_end_final_commit"),
]
"""As the specification lists them."""


def test_the_trace_has_exactly_the_schema_of_the_design(bench):
    bench.script({"write": "answer.txt", "content": "42\n"}, {"run_tests": ""})
    run = bench.run()
    table = run.trace.table
    assert table.schema.names == COLUMNS
    assert table.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
    assert run.rows[0]["trajectory_id"] == "t1"
    assert run.rows[1]["envoi_calls"][0]["total"] == 2
    assert (run.folder / "events.jsonl.zst").stat().st_size > 0


def test_what_a_submission_that_does_not_build_says_reaches_the_agent_and_ends_no_run(bench):
    bench.main_py("""
import envoi

@envoi.setup
async def build(submission: envoi.Documents):
    if not (envoi.session_path() / "ok").exists():
        raise RuntimeError("undefined reference to main")

@envoi.test()
async def builds():
    return {"passed": 1, "failed": 0, "total": 1}
""")
    bench.script({"run_tests": ""}, {"text": "I read it."}, {"run": "touch ok"}, {"run_tests": ""})
    run = bench.run()
    assert run.exit_status == 0, run.stderr
    rows = run.rows
    assert "undefined reference to main" in rows[0]["tool_output"]
    assert rows[0]["envoi_calls"][0]["status_code"] == 422
    assert rows[-1]["session_end_reason"] == "solved"


@pytest.mark.parametrize("cause", ["setup", "import", "no tests"])
def test_an_environment_that_fails_ends_the_run_before_the_agent_starts(bench, cause):
    bench.script({"run": "touch started"})
    if cause == "setup":
        (bench.environment / "setup.sh").write_text("echo the compiler is missing >&2\nexit 7\n")
    elif cause == "import":
        bench.main_py("import envoi\nraise ValueError('no such suite')\n")
    else:
        bench.main_py("import envoi\n")
    run = bench.run()
    words = {"setup": "the compiler is missing", "import": "no such suite", "no tests": "no test"}[cause]
    assert run.exit_status == 4, run.stderr
    assert words in run.stderr
    assert run.summary["reason"] == "envoi_error"
    assert run.trace.end.reason == "envoi_error"
    assert run.rows == []
    assert bench.sandboxes() == []


def test_hidden_tests_count_and_are_never_shown(bench):
    bench.script({"run_tests": ""}, {"run_tests": "files/never"}, {"turn": True}, {"text": "what now?"})
    run = bench.run("--hidden", "files/never", "--max-turns", "2")
    assert run.exit_status == 0, run.stderr
    rows = run.rows
    assert "never" not in (rows[0]["tool_output"] or "")
    assert rows[0]["envoi_calls"][0]["total"] == 1
    assert rows[1]["envoi_calls"][0]["status_code"] == 404
    assert "never" not in rows[2]["turn_prompt"]
    assert run.summary["total_paths"] == 2


def test_labels_parameters_and_hashes_stand_in_the_rows(bench):
    (bench.task / "en.md").write_text("Write {answer} into answer.txt. int main() { return 0; }")
    bench.script({"text": "hello"})
    run = bench.run("--param", "answer=42", "--label", "team=red")
    row = run.rows[0]
    assert row["turn_prompt"] == "Write 42 into answer.txt. int main() { return 0; }"
    assert dict(row["labels"]) == {"team": "red"}
    assert json.loads(row["task_params"]) == {"answer": "42"}
    assert row["task_hash"]
    assert row["environment_hash"]


def test_nothing_of_a_run_is_left_behind(bench):
    bench.script({"run": "sleep 300 & echo $!"}, {"text": "done"})
    run = bench.run("--max-turns", "1")
    assert run.exit_status == 0
    assert bench.sandboxes() == []
    assert bench.processes() == []


def test_shared_evaluation_sandbox(bench):
    bench.script({"write": "answer.txt", "content": "42\n"}, {"run_tests": ""})
    run = bench.run("--eval-sandbox", "shared")
    assert run.rows[1]["envoi_calls"][0]["passed"] == 1, run.stderr
