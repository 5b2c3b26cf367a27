"""The parsers, on recorded sessions of Codex 0.163 and 0.169, and on what nobody would record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from envoi_trace_codex.parsing.app_server import AppServerParser
from envoi_trace_codex.parsing.exec_json import ExecJsonParser
from envoi_trace_codex.parsing.rollout import RolloutParser
from envoi_trace_codex.plugin import envoi_trace_part_parsers
from hypothesis import given, settings
from hypothesis import strategies as st

from envoi_trace_core.domain.drafts import Draft, NativeEvent, PartDraft, UnparsedEvent, UsageDraft
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_core.protocols import PartParser
from envoi_trace_core.sandboxing.lines import LineSplitter

DATA = Path(__file__).parent / "data"
PARSERS = {"app_server": AppServerParser, "exec_json": ExecJsonParser, "rollout": RolloutParser}
LOGS = sorted(path for kind in PARSERS for path in (DATA / kind).glob("*.jsonl"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def events(lines: Sequence[str], session_id: str = "session") -> list[NativeEvent]:
    return [
        NativeEvent(index=index, session_id=session_id, received_at=NOW, raw=raw) for index, raw in enumerate(lines, 1)
    ]


def session_of(lines: Sequence[str]) -> str:
    for line in lines:
        found = json.loads(line).get("params", {}).get("threadId")
        if found:
            return str(found)
    return "session"


def feed(parser: PartParser, fed: Sequence[NativeEvent]) -> list[tuple[int, Draft]]:
    given = [(event.index, draft) for event in fed for draft in parser.feed(event)]
    return given + [(0, draft) for draft in parser.finish()]


def as_json(index: int, draft: Draft) -> dict[str, Any]:
    """A draft without the fields that stand at their defaults."""
    fields = {
        field.name: getattr(draft, field.name)
        for field in attrs.fields(type(draft))
        if getattr(draft, field.name) != field.default and field.name != "raw"
    }
    usage = fields.get("usage")
    if isinstance(usage, TokenUsage):
        fields["usage"] = attrs.asdict(usage)
    if "timestamp" in fields:
        fields["timestamp"] = fields["timestamp"].isoformat()
    return {"event": index, "draft": type(draft).__name__, **fields}


@pytest.mark.parametrize("path", LOGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recorded_sessions_give_their_golden_parts(path: Path, request: pytest.FixtureRequest) -> None:
    lines = path.read_text().splitlines()
    fed = events(lines, session_of(lines))
    drafts = feed(PARSERS[path.parent.name](), fed)
    found = [as_json(index, draft) for index, draft in drafts]
    golden = path.with_suffix(".golden.json")
    if request.config.getoption("--update-goldens"):
        golden.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(golden.read_text())
    assert not [draft for _, draft in drafts if isinstance(draft, UnparsedEvent)]
    # Fed again, by a new parser: the same, as after a restart.
    assert feed(PARSERS[path.parent.name](), fed) == drafts


@pytest.mark.parametrize("path", LOGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_usage_is_what_the_server_sent(path: Path) -> None:
    """The last running sum that Codex told, wherever it told one."""
    lines = path.read_text().splitlines()
    totals = [
        usage["total"]["totalTokens"]
        for line in lines
        if (usage := json.loads(line).get("params", {}).get("tokenUsage")) is not None
        and usage["total"]["inputTokens"]  # else it is the size of a context window that overflowed
    ]
    drafts = feed(PARSERS[path.parent.name](), events(lines, session_of(lines)))
    counted = sum(draft.usage.total for _, draft in drafts if isinstance(draft, UsageDraft) and draft.usage)
    if totals:
        assert counted == max(totals)
    elif path.parent.name == "exec_json":
        assert counted == 4200


@pytest.mark.parametrize("path", LOGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
@settings(max_examples=10)
@given(data=st.data())
def test_any_chunking_of_the_stream_gives_the_same(path: Path, data: st.DataObject) -> None:
    """Chunks are joined to lines before a parser sees them, wherever they were cut."""
    content = path.read_bytes()
    places = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    chunks = [content[start:end] for start, end in pairwise([0, *places, len(content)])]
    splitter = LineSplitter(0, 10**9)
    lines = [line.data.decode() for chunk in chunks for line in splitter.feed(chunk)]
    whole = content.decode().splitlines()
    assert lines == whole
    session_id = session_of(whole)
    assert feed(PARSERS[path.parent.name](), events(lines, session_id)) == feed(
        PARSERS[path.parent.name](), events(whole, session_id)
    )


def test_every_parser_is_offered() -> None:
    specs = {spec.name: spec.create() for spec in envoi_trace_part_parsers()}
    assert {name: type(parser) for name, parser in specs.items()} == {
        "codex-app-server": AppServerParser,
        "codex-exec-json": ExecJsonParser,
        "codex-rollout": RolloutParser,
    }
    assert all(isinstance(parser, PartParser) for parser in specs.values())


# -- what can't be understood ---------------------------------------------------------------------

KEY_WORDS = """
method params item type id call_id threadId turnId turn run output arguments name input status content summary text
command changes path kind diff usage tokenUsage total last payload timestamp role result error
"""
TYPE_WORDS = """
item/started item/completed turn/started turn/completed rawResponseItem/completed rawResponse/completed
thread/tokenUsage/updated hook/started hook/completed item/agentMessage/delta commandExecution fileChange mcpToolCall
agentMessage reasoning function_call function_call_output custom_tool_call message assistant exec item.completed
item.started turn.completed response_item event_msg item_completed token_count failed
"""
KEYS, WORDS = st.sampled_from(KEY_WORDS.split()), st.sampled_from(TYPE_WORDS.split())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=6),
    max_leaves=25,
)
MESSAGES = st.fixed_dictionaries(
    {"method": WORDS, "params": st.dictionaries(KEYS, VALUES, max_size=6)} | {"type": WORDS, "payload": VALUES}
)


def check(drafts: Sequence[tuple[int, Draft]]) -> None:
    for _, draft in drafts:
        as_json(0, draft)
        text = [value for value in attrs.astuple(draft, recurse=False) if isinstance(value, str)]
        "".join(text if not isinstance(draft, UnparsedEvent) else [draft.reason]).encode()
        if isinstance(draft, PartDraft) and draft.tool_input is not None:
            json.loads(draft.tool_input)


@pytest.mark.parametrize("kind", PARSERS)
@given(lines=st.lists(st.text(max_size=60) | (MESSAGES | VALUES).map(json.dumps), max_size=12))
def test_nothing_raises(kind: str, lines: list[str]) -> None:
    check(feed(PARSERS[kind](), events(lines)))


@pytest.mark.parametrize("kind", PARSERS)
@given(data=st.data())
def test_truncated_and_shuffled_sessions_never_raise(kind: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted((DATA / kind).glob("*.jsonl"))))
    lines = path.read_text().splitlines()
    chosen = data.draw(st.lists(st.sampled_from(lines), max_size=20))
    cut = [line[: data.draw(st.integers(0, len(line)))] if data.draw(st.booleans()) else line for line in chosen]
    check(feed(PARSERS[kind](), events(cut)))


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize(
    "line",
    [
        "",
        "[" * 100_000,
        '{"method":"item/completed","params":{"item":{"type":"agentMessage","id":"a","text":"\\ud800"}}}',
        '{"method":"item/completed","params":{"item":NaN}}',
        "1" * 10_000,
        '{"method":7}',
        '{"method":"no/such/thing"}',
        '{"method":"item/completed","params":{"item":{"type":"newThing","id":"a"}}}',
        '{"type":"item.completed","item":{"type":"new_thing"}}',
        '{"type":"something.else"}',
    ],
)
def test_strange_lines(kind: str, line: str) -> None:
    drafts = feed(PARSERS[kind](), events([line]))
    check(drafts)
    assert all(draft.raw == line for _, draft in drafts if isinstance(draft, UnparsedEvent))
    assert drafts  # a part, or counted as not understood: never nothing


def test_an_unknown_kind_of_item_is_counted_with_its_raw_event() -> None:
    line = '{"method":"item/completed","params":{"item":{"type":"newThing","id":"a"}}}'
    ((_, draft),) = feed(AppServerParser(), events([line]))
    assert draft == UnparsedEvent(reason="unknown item type 'newThing'", raw=line)


# -- single rules ---------------------------------------------------------------------------------


def message(method: str, **params: Any) -> str:
    return json.dumps({"method": method, "params": {"threadId": "session", **params}})


def item(state: str, **fields: Any) -> str:
    return message(f"item/{state}", item=fields)


COMMAND = {"type": "commandExecution", "id": "call-1", "command": "ls", "status": "completed", "exitCode": 0}


def drafts_of(*lines: str) -> list[tuple[int, Draft]]:
    return feed(AppServerParser(), events(lines))


def hook(state: str) -> str:
    return message(f"hook/{state}", run={"id": "post-tool-use:0:/codex-home/config.toml:call-1"})


def test_a_command_waits_for_its_hook() -> None:
    """Its item is complete before the hook runs that makes its checkpoint."""
    lines = (message("turn/started"), item("started", **COMMAND), item("completed", **COMMAND), hook("started"))
    usage = message("thread/tokenUsage/updated", tokenUsage={})
    given = drafts_of(*lines, usage, hook("completed"), message("turn/completed"))
    assert [(index, type(draft)) for index, draft in given] == [(6, PartDraft)]


def test_a_command_without_a_hook_waits_for_its_output_only() -> None:
    output = message(
        "rawResponseItem/completed", item={"type": "function_call_output", "call_id": "call-1", "output": ""}
    )
    given = drafts_of(message("turn/started"), item("completed", **COMMAND), output)
    assert [(index, draft.call_id) for index, draft in given if isinstance(draft, PartDraft)] == [(3, "call-1")]


def test_parallel_commands_come_in_the_order_in_which_their_hooks_ended() -> None:
    second = {**COMMAND, "id": "call-2"}
    hook_2 = hook("completed").replace("call-1", "call-2")
    given = drafts_of(
        message("turn/started"), item("completed", **COMMAND), item("completed", **second),
        hook("started"), hook("started").replace("call-1", "call-2"), hook_2, hook("completed"),
    )  # fmt: skip
    assert [draft.call_id for _, draft in given if isinstance(draft, PartDraft)] == ["call-2", "call-1"]


def test_usage_goes_to_the_last_call_of_its_response() -> None:
    call = message(
        "rawResponseItem/completed", item={"type": "function_call", "call_id": "call-1", "name": "exec_command"}
    )
    usage = {"totalTokens": 30, "inputTokens": 20, "outputTokens": 10}
    response = message("rawResponse/completed", responseId="r1", usage=usage)
    total = message("thread/tokenUsage/updated", tokenUsage={"total": usage, "last": usage})
    given = drafts_of(message("turn/started"), call, response, response, item("completed", **COMMAND), total, total)
    assert [draft.call_id for _, draft in given if isinstance(draft, UsageDraft)] == ["call-1"]


def test_usage_that_only_the_sum_tells_is_counted_once() -> None:
    def told(total: int) -> str:
        usage = {"totalTokens": total, "inputTokens": total - 5, "outputTokens": 5}
        return message("thread/tokenUsage/updated", tokenUsage={"total": usage, "last": usage})

    window = {"total": {"totalTokens": 258400}, "last": {"totalTokens": 258000}}
    overflow = message("thread/tokenUsage/updated", tokenUsage=window)
    given = drafts_of(told(30), told(30), told(70), overflow)
    assert [draft.usage.total for _, draft in given if isinstance(draft, UsageDraft) and draft.usage] == [30, 40]


def test_an_interrupted_mcp_call_and_half_a_message_are_parts() -> None:
    call = {"type": "mcpToolCall", "id": "c", "server": "tests", "tool": "run_tests", "arguments": {"path": "a"}}
    given = drafts_of(
        message("turn/started"), item("started", **call), item("started", type="agentMessage", id="m", text=""),
        message("item/agentMessage/delta", itemId="m", delta="half "),
        message("item/agentMessage/delta", itemId="m", delta="said"),
        message("turn/completed", turn={"status": "interrupted"}),
    )  # fmt: skip
    assert [
        (draft.part_type, draft.tool_status, draft.content) for _, draft in given if isinstance(draft, PartDraft)
    ] == [
        ("text", None, "half said"),
        ("tool", "interrupted", None),
    ]


def test_what_a_sub_agent_does_carries_its_own_session() -> None:
    line = json.dumps({"method": "item/completed", "params": {
        "threadId": "sub", "item": {"type": "agentMessage", "id": "m", "text": "hi"}}})  # fmt: skip
    ((_, draft),) = drafts_of(line)
    assert isinstance(draft, PartDraft)
    assert draft.session_id == "sub"


def test_a_raw_item_of_the_rollout_file_is_understood() -> None:
    call = {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin Patch"}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": "apply_patch verification failed: no"}
    given = drafts_of(
        *[json.dumps({"type": "response_item", "payload": payload}) for payload in (call, output, output)]
    )
    ((_, draft),) = given
    assert isinstance(draft, PartDraft)
    assert (draft.part_type, draft.tool_status) == ("patch", "failed")


def test_web_search_and_tools_of_other_servers() -> None:
    search = {"type": "webSearch", "id": "w", "query": "merge sort", "action": {"type": "search"}}
    other = {"type": "mcpToolCall", "id": "o", "server": "docs", "tool": "find", "arguments": {}, "status": "completed"}
    given = drafts_of(item("completed", **search), item("completed", **other))
    assert [draft.tool_name for _, draft in given if isinstance(draft, PartDraft)] == ["web_search", "docs.find"]
