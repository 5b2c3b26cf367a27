from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envoi_trace_core.cli import output
from envoi_trace_core.cli.output import (
    Cell,
    age,
    columns,
    cut,
    duration,
    out_json,
    out_table,
    printable,
    printable_block,
)


@given(st.text(alphabet=st.characters(codec=None)))
def test_nothing_that_a_terminal_obeys_gets_through(text):
    line = printable(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in line)
    assert "\u202e" not in line
    block = printable_block(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" for char in block)


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S", "M"))))
def test_what_is_harmless_stays(text):
    assert printable(text) == text.strip()


def test_escapes_are_shown_not_obeyed():
    assert printable("\x1b[2Jgone\rline\n two") == "\\x1b[2Jgone\\rline  two"
    assert printable_block("a\r\nb\x07\tc\n") == "a\nb\\x07\tc\n"
    assert printable("safe\u202egnp.exe") == "safe\\u202egnp.exe"


def test_a_table_is_aligned_and_has_no_colour_off_a_terminal(capsys):
    out_table(["name", "n", "what"], [["a", "10", Cell("red\x1b", "red")], ["longer", "7", "日本"]], right=[1])

    assert capsys.readouterr().out.splitlines() == ["name     n  what", "a       10  red\\x1b", "longer   7  日本"]


def test_on_a_terminal_the_last_column_is_cut_and_styled(capsys, monkeypatch):
    monkeypatch.setattr(output, "width", lambda: 20)
    monkeypatch.setattr(output, "has_colour", lambda _stream: True)
    out_table(["a", "b"], [[Cell("x", "green"), "y" * 50]])

    [_, row] = capsys.readouterr().out.splitlines()
    assert row == "\x1b[32mx\x1b[0m  " + "y" * 16 + "…"


def test_wide_characters_take_two_columns():
    assert columns("日本") == 4
    assert columns("e\u0301") == 1
    assert cut("日本語", 5) == "日本…"
    assert cut("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (200000, "2d"), (-5, "0s")]
)
def test_age(seconds, text):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert age(now - timedelta(seconds=seconds), now) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.34, "0.3s"), (42.9, "42s"), (183, "3m 03s"), (7620, "2h 07m")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_json_has_values_as_one_expects(capsys):
    out_json(
        {"at": datetime(2026, 1, 1, tzinfo=UTC), "cell": Cell("x", None), "path": Path("/a"), "t": (1, 2), "s": "é"}
    )

    assert json.loads(capsys.readouterr().out) == {
        "at": "2026-01-01T00:00:00+00:00",
        "cell": {"text": "x", "style": None},
        "path": "/a",
        "t": [1, 2],
        "s": "é",
    }
