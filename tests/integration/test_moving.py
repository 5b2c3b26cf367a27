"""A run that outlives its sandbox moves into a new one, and nothing of it shows in the trace but the time."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

LIFETIME_S = 16


def writes(first: int, last: int, *, pause_s: float):
    for n in range(first, last + 1):
        yield {"write": f"f{n}.txt", "content": f"{n}\n"}
        yield {"sleep": pause_s}


def test_a_turn_that_is_longer_than_a_sandbox_goes_on_in_another(bench):
    bench.script(*writes(1, 12, pause_s=2.5))
    run = bench.run("--max-parts", "12", "--timeout", "3600", "--sandbox-opt", f"max_lifetime_s={LIFETIME_S}")
    assert (run.exit_status, run.summary["reason"]) == (0, "part_limit"), run.stderr
    assert "live 16 s at most, and --timeout is 3600 s" in run.stderr
    assert "moves into a new one" in run.stderr
    written = [row["repo_checkpoint"]["changed_files"][0]["path"] for row in run.rows]
    assert written == [f"f{n}.txt" for n in range(1, 13)]
    assert {row["turn"] for row in run.rows} == {1}
    assert not bench.sandboxes()


def test_a_run_moves_between_two_turns_when_it_can(bench):
    actions = []
    for turn in range(1, 9):
        actions += [{"write": f"f{turn}.txt", "content": f"{turn}\n"}, {"sleep": 1.5}, {"turn": True}]
    bench.script(*actions)
    run = bench.run("--max-turns", "8", "--sandbox-opt", f"max_lifetime_s={LIFETIME_S}")
    assert (run.exit_status, run.summary["reason"]) == (0, "turn_limit"), run.stderr
    assert "moves into a new one" in run.stderr
    assert [(row["part"], row["turn"]) for row in run.rows] == [(n, n) for n in range(1, 9)], run.stderr


def test_sandboxes_that_end_before_anything_is_done_do_not_move_for_ever(bench):
    bench.script({"sleep": 30}, {"text": "never"})
    run = bench.run("--sandbox-opt", "max_lifetime_s=6")
    assert run.exit_status == 5, run.stderr
    assert "3 times in a row" in run.stderr
