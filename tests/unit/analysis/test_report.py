"""`report.html`, as far as it needs no browser: one file, bounded, inert."""

from __future__ import annotations

import base64
import gzip
import json
import re

from envoi_trace_core.analysis.curves import progress_of
from envoi_trace_core.analysis.report import TEXT_LIMITS, report_bytes, text_limit


def page_of(trace) -> str:
    return report_bytes(trace, progress_of(trace)).decode()


def blocks_of(page: str):
    for packed in re.findall(r'<script type="application/octet-stream"[^>]*>([^<]*)</script>', page):
        yield json.loads(gzip.decompress(base64.b64decode(packed)))


def test_the_page_names_no_other_file(typical):
    page = page_of(typical.trace)
    assert re.findall(r"(?:src|href)\s*=|@import|url\(|https?:(?!//www\.w3\.org)", page) == []
    assert "default-src 'none'" in page
    assert "unsafe-inline" not in page


def test_the_same_trace_gives_the_same_bytes(typical):
    assert page_of(typical.trace) == page_of(typical.trace)


def test_a_long_text_is_cut_and_says_so(make):
    maker = make().begin()
    maker.part(tool_output="a" * 30_000 + "b" * 30_000)
    _, parts = blocks_of(page_of(maker.trace))
    name, text, left = parts[0]["texts"][-1]
    assert name == "tool output"
    assert left == 20_000
    assert len(text) < TEXT_LIMITS[0] + 100
    assert (text[0], text[-1]) == ("a", "b")
    assert "20,000 characters left out" in text


def test_a_large_trajectory_cuts_more(make):
    maker = make().begin()
    for _ in range(10):
        maker.part(tool_output="x" * 100_000)
    rows = maker.trace.rows
    assert text_limit(rows) == TEXT_LIMITS[0]
    assert text_limit(rows, 200_000) == TEXT_LIMITS[1]
    assert text_limit(rows, 1) == TEXT_LIMITS[-1]


def test_contents_stand_in_blocks_of_fifty(make):
    maker = make().begin()
    for _ in range(120):
        maker.part()
    index, *blocks = blocks_of(page_of(maker.trace))
    assert [len(block) for block in blocks] == [50, 50, 20]
    assert index["block_parts"] == 50
    assert {len(column) for column in index["rows"].values()} == {120}
    assert all(len(summary) <= 160 for summary in index["rows"]["summary"])


def test_odd_numbers_and_texts_do_not_break_the_page(make):
    maker = make(trajectory_id="t\ud800").begin(model="\x00<b>")
    maker.part(cost_usd=float("nan"), content="\ud83d lone \x00", tool_input="not json")
    maker.part(cost_usd=float("inf"))
    progress = progress_of(maker.trace)
    assert progress.end.cost_usd is None
    assert "<b>" not in page_of(maker.trace)
