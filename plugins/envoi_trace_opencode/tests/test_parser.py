"""The parser on logs of the real OpenCode, and on rubbish."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
from envoi_trace_opencode.parsing.parser import OpenCodeParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft, UnparsedEvent, UsageDraft
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_core.sandboxing.lines import LineSplitter

DATA = Path(__file__).parent / "data"
LOGS = sorted(DATA.glob("*.events.jsonl"))


def events_of(lines: list[str], session_id: str | None = None) -> list[NativeEvent]:
    session_id = session_id or next(
        (json.loads(line)["properties"]["sessionID"] for line in lines if '"session.created"' in line), "ses_1"
    )
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        NativeEvent(index=index, session_id=session_id, received_at=at, raw=line) for index, line in enumerate(lines, 1)
    ]


def parse(events: list[NativeEvent], *, finish: bool = True) -> list[Draft]:
    parser = OpenCodeParser()
    drafts = [draft for event in events for draft in parser.feed(event)]
    return drafts + (list(parser.finish()) if finish else [])


def plain(draft: Draft) -> dict[str, object]:
    def skip_defaults(attribute: attrs.Attribute[object], value: object) -> bool:
        return value != attribute.default

    told = attrs.asdict(draft, filter=skip_defaults)
    if told.get("timestamp") is not None:
        told["timestamp"] = told["timestamp"].isoformat()
    return {"kind": type(draft).__name__, **told}


def line(kind: str, **properties: object) -> str:
    return json.dumps({"id": "evt_1", "type": kind, "properties": {"sessionID": "ses_1", **properties}})


def part(kind: str, part_id: str = "prt_1", message: str = "msg_1", session: str = "ses_1", **fields: object) -> str:
    about = {"id": part_id, "messageID": message, "sessionID": session, "type": kind, **fields}
    return json.dumps({"id": "e", "type": "message.part.updated", "properties": {"sessionID": session, "part": about}})


def tool(status: str, tool_name: str = "bash", part_id: str = "prt_t", call: str = "call_1", **state: object) -> str:
    about = {"status": status, "input": {"command": "ls"}, "time": {"start": 1_795_000_000_000}, **state}
    return part("tool", part_id, tool=tool_name, callID=call, state=about)


def parts_of(lines: list[str]) -> list[PartDraft]:
    return [draft for draft in parse(events_of(lines)) if isinstance(draft, PartDraft)]


def test_there_are_logs() -> None:
    assert len(LOGS) >= 6


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_golden(log: Path, request: pytest.FixtureRequest) -> None:
    drafts = [plain(draft) for draft in parse(events_of(log.read_text().splitlines()))]
    golden = log.with_name(log.name.replace(".events.jsonl", ".parts.json"))
    if request.config.getoption("--update-opencode-goldens"):
        golden.write_text(json.dumps(drafts, indent=1, ensure_ascii=False) + "\n")
    assert drafts == json.loads(golden.read_text())


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_nothing_in_a_log_is_unknown(log: Path) -> None:
    drafts = parse(events_of(log.read_text().splitlines()))
    assert [draft.reason for draft in drafts if isinstance(draft, UnparsedEvent)] == []


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_events_that_are_told_again_change_nothing(log: Path) -> None:
    events = events_of(log.read_text().splitlines())
    parser = OpenCodeParser()
    once = [draft for event in events for draft in parser.feed(event)] + list(parser.finish())
    again = [draft for event in events for draft in parser.feed(event)] + list(parser.finish())
    assert once == parse(events)
    assert again == []


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
@pytest.mark.parametrize("chunk_bytes", [1, 7, 4096])
def test_any_chunking_gives_the_same(log: Path, chunk_bytes: int) -> None:
    data = log.read_bytes()
    splitter = LineSplitter(0, 1 << 26)
    lines = [
        found.data.decode()
        for start in range(0, len(data), chunk_bytes)
        for found in splitter.feed(data[start : start + chunk_bytes])
    ]
    assert parse(events_of(lines)) == parse(events_of(data.decode().splitlines()))


def test_a_subagents_parts_name_its_session() -> None:
    log = DATA / "subagent_abort_applypatch.events.jsonl"
    drafts = [draft for draft in parse(events_of(log.read_text().splitlines())) if isinstance(draft, PartDraft)]
    child = [draft for draft in drafts if draft.session_id is not None]
    assert [draft.part_type for draft in child] == ["tool_use", "tool_result", "text"]
    assert {draft.session_id for draft in child} == {child[0].session_id}
    names = [(draft.part_type, draft.tool_name) for draft in drafts if draft.session_id is None]
    assert ("tool_use", "task") in names
    assert ("tool_result", "task") in names


def test_the_prompt_is_no_part() -> None:
    user = line("message.updated", info={"id": "msg_u", "role": "user"})
    assert (
        parts_of([user, part("text", message="msg_u", text="do it"), part("text", message="msg_x", text="too")]) == []
    )


def test_a_tool_is_two_parts_and_a_result_has_all_of_it() -> None:
    lines = [
        tool("pending", input={}),
        tool("running"),
        tool("running", metadata={"output": "a"}),
        tool(
            "completed",
            output="a\nb",
            metadata={"exit": 3},
            time={"start": 1_795_000_000_000, "end": 1_795_000_000_250},
        ),
    ]
    use, result = parts_of(lines)
    assert (use.part_type, use.tool_status, use.may_change_files) == ("tool_use", "running", False)
    assert result == attrs.evolve(
        use,
        part_type="tool_result",
        tool_status="completed",
        tool_output="a\nb",
        tool_exit_code=3,
        duration_ms=250,
        may_change_files=True,
        summary="$ ls (exit 3)",
        timestamp=result.timestamp,
    )
    assert result.call_id == "call_1"


@pytest.mark.parametrize("name", ["write", "edit", "apply_patch"])
def test_a_file_tool_ends_as_a_patch_unless_it_failed(name: str) -> None:
    good = [tool("running", name), tool("completed", name, output="ok", metadata={"diff": "--- a"})]
    assert [(draft.part_type, draft.content) for draft in parts_of(good)] == [("tool_use", None), ("patch", "--- a")]
    assert parts_of(good)[-1].may_change_files
    failed = parts_of([tool("running", name), tool("error", name, error="no such text")])[-1]
    assert (failed.part_type, failed.tool_status, failed.tool_error) == ("tool_result", "failed", "no such text")
    assert failed.may_change_files


def test_run_tests_has_its_plain_name_under_any_server() -> None:
    (use,) = parts_of([tool("completed", "envoi_run_tests", input={"path": "basics"}, output="{}")])
    assert (use.tool_name, use.item_type, use.summary) == ("run_tests", "envoi_run_tests", "run_tests basics")


def test_a_reading_tool_asks_for_no_checkpoint() -> None:
    assert not parts_of([tool("completed", "read", output="x")])[0].may_change_files
    assert parts_of([tool("completed", "unheard_of", output="x")])[0].may_change_files


@pytest.mark.parametrize("kind", ["envoi.server.ended", "envoi.server.started"])
def test_what_a_dead_server_left_is_interrupted(kind: str) -> None:
    text = part("text", "prt_x", text="", time={"start": 1})
    delta = line("message.part.delta", partID="prt_x", messageID="msg_1", field="text", delta="half")
    lines = [text, delta, tool("running"), json.dumps({"type": kind})]
    parser = OpenCodeParser()
    drafts = [draft for event in events_of(lines) for draft in parser.feed(event)]
    assert [(draft.part_type, draft.tool_status) for draft in drafts] == [
        ("tool_use", "running"),
        ("text", None),
        ("tool_result", "interrupted"),
    ]
    assert drafts[1].content == "half"
    assert list(parser.finish()) == []
    (late,) = events_of([tool("completed", output="late")])
    assert parser.feed(late) == []


def test_finish_ends_what_is_open() -> None:
    assert [draft.tool_status for draft in parts_of([tool("running")])] == ["running", "interrupted"]


def test_usage_counts_the_cache_and_reasoning_in_and_goes_to_the_newest_part_of_its_message() -> None:
    tokens = {"total": 125, "input": 90, "output": 15, "reasoning": 5, "cache": {"read": 10, "write": 5}}
    lines = [
        part("text", "prt_a", "msg_1", text="a", time={"start": 1, "end": 2}),
        part("text", "prt_b", "msg_2", "ses_child", text="b", time={"start": 1, "end": 2}),
        part("step-finish", "prt_c", "msg_1", tokens=tokens, cost=0.5),
    ]
    (usage,) = [draft for draft in parse(events_of(lines)) if isinstance(draft, UsageDraft)]
    assert usage.usage == TokenUsage(input=105, cached_input=10, output=20, reasoning=5, total=125)
    assert (usage.call_id, usage.cost_usd) == ("prt_a", 0.5)


def test_a_cost_of_zero_is_an_unknown_price() -> None:
    (usage,) = parse(events_of([part("step-finish", tokens={"input": 1}, cost=0)]))
    assert isinstance(usage, UsageDraft)
    assert usage.cost_usd is None


def test_unknown_things_are_counted() -> None:
    lines = [line("brand.new"), part("hologram"), "no json", "[]", tool("levitating"), part("text", message="")]
    drafts = parse(events_of(lines))
    assert [type(draft) for draft in drafts] == [UnparsedEvent] * 6
    assert [draft.raw for draft in drafts] == lines


# -- rubbish --------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["id", "messageID", "sessionID", "type", "text", "time", "state", "tool", "callID", "tokens", "cost"]
STATE_KEYS = ["status", "input", "output", "error", "metadata", "time"]
WORDS = ["tool", "text", "reasoning", "step-finish", "running", "completed", "error", "bash", "write", "invalid", "p"]
word = st.sampled_from(WORDS)
state = st.dictionaries(st.sampled_from(STATE_KEYS), word | values | st.dictionaries(word, values), max_size=6)
strange_part = st.dictionaries(st.sampled_from(KEYS), word | state | values, max_size=11)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.lists(strange_part | values, max_size=8))
def test_no_strange_part_raises(strange: list[object]) -> None:
    lines = [json.dumps({"type": "message.part.updated", "properties": {"part": one}}) for one in strange]
    assert parse(events_of(lines, "ses_1")) == parse(events_of(lines, "ses_1"))


@settings(max_examples=200)
@given(st.text())
def test_no_strange_line_raises(raw: str) -> None:
    parse(events_of([raw], "ses_1"))


LOG_LINES = [found for log in LOGS for found in log.read_text().splitlines() if "message." in found]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(LOG_LINES), st.integers(0, 2000)), max_size=20))
def test_no_truncated_or_shuffled_event_raises(cut: list[tuple[str, int]]) -> None:
    lines = [found[: len(found) - length] if length < len(found) // 2 else found for found, length in cut]
    for draft in parse(events_of(lines, "ses_1")):
        if isinstance(draft, PartDraft):
            json.dumps(plain(draft)).encode()
