"""Every way in which a run ends by itself, or is ended."""

from __future__ import annotations

import signal

import pytest

pytestmark = pytest.mark.slow

WRITES = [{"write": "file.txt", "content": f"{n}\n"} for n in range(20)]


def test_part_limit_gives_exactly_that_many_rows(bench):
    bench.script(*WRITES)
    run = bench.run("--max-parts", "7")
    assert run.exit_status == 0, run.stderr
    assert run.summary["reason"] == "part_limit"
    assert [row["part"] for row in run.rows] == list(range(1, 8))
    assert run.rows[-1]["session_end_total_parts"] == 7
    assert run.rows[-1]["session_end_final_commit"] == run.rows[-1]["git_commit"]


def test_part_limit_in_the_middle_of_a_long_command_leaves_no_process(bench):
    bench.script({"text": "one"}, {"text": "two"}, {"run": "sleep 600"})
    run = bench.run("--max-parts", "2", timeout_s=60)
    assert run.summary["reason"] == "part_limit"
    assert bench.processes() == []


def test_turn_limit(bench):
    bench.script({"text": "a"}, {"turn": True}, {"text": "b"}, {"turn": True}, {"text": "c"})
    run = bench.run("--max-turns", "2")
    assert run.summary["reason"] == "turn_limit"
    assert [(row["turn"], row["content"]) for row in run.rows] == [(1, "a"), (2, "b")]
    assert run.rows[0]["turn_prompt"] == "Write 42 into answer.txt."
    assert "tests" in run.rows[1]["turn_prompt"]


def test_three_turns_without_an_action_are_stalled(bench):
    bench.script(*[action for n in range(5) for action in ({"text": f"{n}"}, {"turn": True})])
    run = bench.run()
    assert run.summary["reason"] == "stalled"
    assert run.summary["turns"] == 3
    assert run.exit_status == 0


def test_token_limit(bench):
    bench.script(
        *[
            action
            for _ in range(20)
            for action in ({"text": "x"}, {"usage": {"input": 90, "output": 10}}, {"sleep": 0.1})
        ]
    )
    run = bench.run("--max-tokens", "250")
    assert run.summary["reason"] == "token_limit"
    assert 250 <= run.summary["token_usage"]["total"] <= 600


def test_cost_limit(bench):
    bench.script(
        *[
            action
            for _ in range(20)
            for action in ({"text": "x"}, {"usage": {"input": 9, "output": 1, "cost_usd": 1.0}}, {"sleep": 0.1})
        ]
    )
    run = bench.run("--max-cost-usd", "2.5")
    assert run.summary["reason"] == "cost_limit"
    assert run.summary["cost_usd"] >= 2.5


@pytest.mark.parametrize("option", ["--turn-timeout", "--timeout", "--idle-timeout"])
def test_a_script_that_sleeps_past_a_timeout_ends_as_timeout(bench, option):
    bench.script({"text": "soon"}, {"sleep": 600}, {"text": "never"})
    run = bench.run(option, "3" if option != "--timeout" else "8", timeout_s=60)
    assert run.exit_status == 0, run.stderr
    assert run.summary["reason"] == "timeout"
    assert [row["content"] for row in run.rows] == ["soon"]
    assert bench.processes() == []


def test_an_agent_that_fails_is_an_agent_error(bench):
    bench.script({"text": "before"}, {"fail": "out of ideas"})
    run = bench.run()
    assert run.exit_status == 3
    assert run.summary["reason"] == "agent_error"
    assert "out of ideas" in run.summary["message"]
    assert [row["content"] for row in run.rows] == ["before"]
    assert run.rows[-1]["session_end_reason"] == "agent_error"


def test_a_script_at_its_end_is_an_agent_error(bench):
    bench.script({"text": "all"})
    run = bench.run()
    assert run.exit_status == 3
    assert "nothing left to play" in run.summary["message"]


def test_auto_resume_goes_on_after_a_failure(bench):
    bench.script({"text": "a"}, {"fail": "once only", "once": True}, {"text": "b"}, {"run": "true"})
    run = bench.run("--auto-resume", "--restart-delay", "0.1", "--max-turns", "1")
    assert run.exit_status == 0, run.stderr
    assert run.summary["reason"] == "turn_limit"
    assert [row["part"] for row in run.rows] == [1, 2, 3]
    assert {row["turn"] for row in run.rows} == {1}


def test_auto_resume_gives_up_when_nothing_new_comes(bench):
    bench.script({"text": "a"}, {"fail": "always"})
    run = bench.run("--auto-resume", "--restart-delay", "0.1", timeout_s=90)
    assert run.exit_status == 3
    assert "always" in run.summary["message"]
    assert [row["content"] for row in run.rows] == ["a"]


def test_fail_under(bench):
    bench.script({"text": "x"}, {"write": "answer.txt", "content": "42\n"})
    assert bench.run("--max-turns", "1", "--fail-under", "0.4").exit_status == 0
    assert bench.run("--max-turns", "1", "--fail-under", "0.9", trajectory_id="t2").exit_status == 6


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_partial_trace_and_closes_the_sandboxes(bench, wait_until, number, status):
    bench.script({"write": "file.txt", "content": "kept\n"}, {"text": "said"}, {"run": "sleep 600"})
    process = bench.start()
    wait_until(lambda: bench.parts() >= 2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    run = bench.finished()
    assert [row["part_type"] for row in run.rows][:2] == ["patch", "text"]
    assert run.rows[-1]["session_end_reason"] == "interrupted"
    assert (run.folder / "repo.bundle").is_file()
    assert bench.sandboxes() == []
    assert bench.processes() == []
