"""ATIF: which parts make a step, and what stands where. The format itself is checked by Harbor's own validator, in
tests/integration/test_atif_validates.py."""

from __future__ import annotations

import json

import attrs
import pytest

from envoi_trace_core.analysis.atif import responses, to_atif
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_core.trace.encode import encode_trace
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.reader import read_trace

from .conftest import run_facts


def trace_of(**changes):
    return read_trace(encode_trace(TraceState.of(run_facts("t1", **changes)).snapshot()))


def rows_of(*words):
    """Rows like `1 reasoning usage`: turn, type, and whether a response ended there."""
    template = trace_of().rows[0]
    rows = []
    for number, word in enumerate(words, 1):
        turn, part_type, *usage = word.split()
        part = attrs.evolve(
            template.part, part=number, turn=int(turn), part_type=part_type, content=f"{part_type} {number}",
            tool_name="bash", tool_output=f"output {number}",
        )  # fmt: skip
        spent = TokenUsage() if usage else None
        rows.append(attrs.evolve(template, part=part, turn_prompt=None, token_usage=spent, cost_usd=None))
    return rows


def trace_with(rows):
    return attrs.evolve(trace_of(), load_rows=lambda: tuple(rows))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["1 reasoning", "1 text", "1 tool usage", "1 text usage"], [[1, 2, 3], [4]]),
        (["1 reasoning usage", "1 tool", "1 tool", "1 text"], [[1], [2], [3], [4]]),
        (["1 reasoning", "2 tool usage"], [[1], [2]]),
        (["1 tool", "1 patch"], [[1], [2]]),
    ],
)
def test_the_parts_of_one_response_are_those_up_to_its_usage(words, expected):
    assert [[row.part.part for row in rows] for rows in responses(rows_of(*words))] == expected


def test_a_response_is_one_step_with_its_calls_results_and_metrics():
    rows = rows_of("1 reasoning", "1 text", "1 tool", "1 tool usage", "1 tool")
    rows[3] = attrs.evolve(
        rows[3], token_usage=TokenUsage(input=9, cached_input=4, output=3, reasoning=1, total=12), cost_usd=0.5
    )
    rows[2] = attrs.evolve(rows[2], part=attrs.evolve(rows[2].part, tool_input='["ls"]'))
    first, second = to_atif(trace_with(rows))["steps"]
    assert first["step_id"] == 1
    assert first["source"] == "agent"
    assert first["reasoning_content"] == "reasoning 1"
    assert first["message"] == "text 2"
    assert [call["tool_call_id"] for call in first["tool_calls"]] == ["part-3", "part-4"]
    assert [call["arguments"] for call in first["tool_calls"]] == [{"input": ["ls"]}, {"command": "ls"}]
    assert [(each["source_call_id"], each["content"]) for each in first["observation"]["results"]] == [
        ("part-3", "output 3"),
        ("part-4", "output 4"),
    ]
    assert first["metrics"] == {
        "prompt_tokens": 9, "completion_tokens": 3, "cached_tokens": 4, "cost_usd": 0.5,
        "extra": {"reasoning_tokens": 1},
    }  # fmt: skip
    assert first["llm_call_count"] == 1
    assert first["extra"]["envoi"]["parts"] == [1, 4]
    # Its response is not known.
    assert "llm_call_count" not in second
    assert "metrics" not in second


def test_a_result_that_came_later_names_its_call_only_in_the_same_step():
    rows = rows_of("1 tool_use", "1 tool_use", "1 tool_result usage", "1 tool_result")
    first, second = to_atif(trace_with(rows))["steps"]
    assert [call["tool_call_id"] for call in first["tool_calls"]] == ["part-1", "part-2"]
    assert [each["source_call_id"] for each in first["observation"]["results"]] == ["part-1"]
    assert "source_call_id" not in second["observation"]["results"][0]
    assert "tool_calls" not in second


def test_prompts_commits_and_evaluations():
    found = to_atif(trace_of())
    user, *steps = found["steps"]
    assert (user["source"], user["message"]) == ("user", "Sort the numbers.")
    commits = [commit for step in steps for commit in step["extra"]["envoi"]["commits"]]
    assert [commit["part"] for commit in commits] == [3, 6]
    assert commits[0]["evaluation"]["passed"] == 2
    assert commits[0]["changed_files"][0]["path"] == "a b.py"
    assert found["agent"] == {"name": "script", "version": "1.2"}
    assert found["final_metrics"]["total_prompt_tokens"] == 300
    assert found["final_metrics"]["total_steps"] == len(found["steps"])
    assert found["extra"]["envoi"]["end"]["reason"] == "solved"
    assert found["extra"]["envoi"]["labels"] == {"team": "a"}
    json.dumps(found, allow_nan=False)


def test_a_trajectory_without_a_part_still_has_a_step():
    found = to_atif(trace_of(parts=0, reason="envoi_error"))
    assert [step["source"] for step in found["steps"]] == ["system"]
    assert "envoi_error" in found["steps"][0]["message"]
