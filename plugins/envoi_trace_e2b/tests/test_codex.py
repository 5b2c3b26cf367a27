"""A whole trajectory of the real Codex, with a scripted model, in the fake: its program comes with the template."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
from codex_scripted_model import Message, Reasoning, ScriptedModel, answer, patch, shell
from e2b_bench import REPOSITORY, Bench
from e2b_fake.server import FakeE2b

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CANARY = "sk-canary-51e8b24d607f3a9c"
SOLUTION = """\
import sys

lines = sys.stdin.read().splitlines()
sys.stdout.write("".join(line + "\\n" for line in sorted(lines, key=lambda line: int(line.split()[0]))))
"""


def test_codex_solves_merge_sort(fake: FakeE2b, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codex_cli_bin")
    monkeypatch.setenv("CODEX_API_KEY", CANARY)
    examples = REPOSITORY / "examples"
    bench = attrs.evolve(
        Bench.make(fake, tmp_path),
        task=examples / "tasks" / "merge_sort",
        environment=examples / "environments" / "merge_sort",
    )
    with ScriptedModel() as model:
        added = patch("*** Add File: merge_sort.py", *(f"+{line}" for line in SOLUTION.splitlines()))
        looked = answer(Reasoning("Sort stably."), shell("echo looking; pwd"))
        model.play(looked, answer(added), answer(Message("Done.")))
        options = [f"base_url={model.base_url}", "request_retries=1", "stream_retries=1"]
        words = [word for option in options for word in ("--agent-opt", option)]
        done = bench.run("--model", "gpt-5.5", "--no-auto-resume", *words, agent="codex")
    assert done.exit_status == 0, done.stderr
    assert done.summary["reason"] == "solved", done.stderr
    kinds = [(row["part_type"], row["tool_name"]) for row in done.rows]
    assert kinds[:3] == [("reasoning", None), ("tool", "shell"), ("patch", "apply_patch")]
    assert done.rows[1]["tool_output"] == "looking\n/workspace\n"
    assert done.file_at(done.rows[2]["git_commit"], "merge_sort.py", tmp_path) == SOLUTION
    assert CANARY not in json.dumps(done.rows, default=str) + done.stdout + done.stderr
    agents, tests = fake.builds
    assert any("openai-codex-cli-bin==" in command for command in agents.not_run)
    assert not any("codex" in command for command in tests.not_run)
    assert "installing codex" not in done.stderr
    assert fake.live() == []
