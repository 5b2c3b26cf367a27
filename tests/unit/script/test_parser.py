"""The parser on whatever may come: it never raises, and gives the same whenever it is fed again."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from envoi_trace_core.builtin.script.parser import ScriptParser
from envoi_trace_core.domain.drafts import NativeEvent, PartDraft, UnparsedEvent, UsageDraft

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(["reasoning", "message", "command", "tool_call", "file_write", "file_patch", "other"])
FIELDS = ("id", "kind", "command", "timeout_s", "arguments", "paths", "patch", "path", "status", "error", "output")
NUMBERS = ("exit_code", "cut_chars", "duration_ms", "size_bytes")
ITEMS = st.fixed_dictionaries(
    {"id": st.sampled_from("abc"), "kind": KINDS}, optional=dict.fromkeys((*FIELDS[2:], *NUMBERS), JSON)
)
TYPES = ("item.started", "item.completed", "item.delta", "usage", "turn.started", "error", "what")
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)},
    optional={
        "item": ITEMS | JSON,
        "item_id": st.sampled_from("abc") | JSON,
        "usage_id": st.sampled_from("uv") | JSON,
        "field": st.sampled_from(["text", "output"]) | JSON,
        "text": st.text() | JSON,
        "at": st.datetimes().map(str) | st.just("0001-01-01T00:00:00+14:00") | JSON,
        "cost_usd": JSON,
        "input_tokens": st.integers() | JSON,
        "total_tokens": st.integers() | JSON,
    },
)


def event(raw: str, index: int = 1) -> NativeEvent:
    return NativeEvent(index=index, session_id="s", received_at=NOW, raw=raw)


def feed(raws: list[str]) -> list:
    parser = ScriptParser()
    drafts = [draft for index, raw in enumerate(raws, 1) for draft in parser.feed(event(raw, index))]
    drafts += parser.finish()
    assert parser.finish() == []
    return drafts


def check(drafts: list) -> None:
    for draft in drafts:
        if isinstance(draft, PartDraft):
            for text in (draft.content, draft.tool_input, draft.tool_output, draft.tool_error, draft.summary):
                assert text is None or text.encode() is not None
            assert "\n" not in draft.summary
            assert len(draft.summary) <= 160
            assert draft.tool_exit_code is None or 0 <= draft.tool_exit_code < 2**31
            assert draft.timestamp is None or draft.timestamp.tzinfo is not None


@given(st.lists(st.one_of(EVENTS.map(json.dumps), JSON.map(json.dumps), st.text()), max_size=12))
def test_it_never_raises(raws):
    drafts = feed(raws)
    check(drafts)
    assert repr(feed(raws)) == repr(drafts)


@given(st.data())
def test_cut_and_shuffled_events(data):
    raws = [
        *(json.dumps({"type": "item.started", "item": {"id": i, "kind": "command", "command": i}}) for i in "ab"),
        *(json.dumps({"type": "item.delta", "item_id": i, "field": "output", "text": i}) for i in "ab"),
        *(json.dumps({"type": "item.completed", "item": {"id": i, "kind": "command", "exit_code": 0}}) for i in "ab"),
    ]
    raws = [raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw for raw in raws]
    drafts = feed(data.draw(st.permutations(raws)))
    check(drafts)
    ids = [draft.call_id for draft in drafts if isinstance(draft, PartDraft)]
    assert len(ids) == len(set(ids)), "no item gives two parts"


def started(item: str, **about: object) -> str:
    return json.dumps({"type": "item.started", "item": {"id": item, "kind": "command", **about}})


def delta(item: str, text: str) -> str:
    return json.dumps({"type": "item.delta", "item_id": item, "field": "output", "text": text})


def completed(item: str) -> str:
    end = {"id": item, "kind": "command", "status": "completed", "exit_code": 0}
    return json.dumps({"type": "item.completed", "item": end})


def test_what_was_never_completed_is_interrupted():
    [draft] = feed([started("a", command="make"), delta("a", "half")])
    assert (draft.tool_status, draft.tool_output, draft.summary) == ("interrupted", "half", "$ make (interrupted)")


def test_an_item_told_twice_is_one_part():
    first = [started("a"), delta("a", "lost"), started("a"), delta("a", "kept"), completed("a")]
    [draft] = feed([*first, completed("a"), started("a"), delta("a", "again"), completed("a")])
    assert draft.tool_output == "kept"
    assert feed([*first, started("a"), delta("a", "again")]) == [draft]


def test_usage_told_twice_counts_once():
    usage = json.dumps({"type": "usage", "usage_id": "u", "item_id": "a", "input_tokens": 3})
    drafts = feed([started("a"), completed("a"), usage, usage])
    assert [type(draft) for draft in drafts] == [PartDraft, UsageDraft]


def test_what_cannot_be_read_is_counted():
    assert [type(draft) for draft in feed(["{", "[]", '{"type": "new.kind"}', delta("a", "x")])] == [UnparsedEvent] * 4


def test_a_lone_surrogate_can_be_stored():
    [draft] = feed(
        [started("a"), r'{"type":"item.delta","item_id":"a","field":"output","text":"x\ud800"}', completed("a")]
    )
    assert draft.tool_output.encode().startswith(b"x")
