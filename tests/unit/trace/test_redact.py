"""No form of a known secret survives, and nothing else changes."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envoi_trace_core.domain.parts import Trajectory
from envoi_trace_core.trace.redact import Redactor, StreamRedactor

SECRET = 'sk-proj/a+b=c 1"2\\3é\U0001f600%&x'
PLAIN = "sk-abcDEF0123456789_x"

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)
SECRETS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=8, max_size=30)


def lower_percents(text: str) -> str:
    return "".join(part if at == 0 else "%" + part[:2].lower() + part[2:] for at, part in enumerate(text.split("%")))


def all_escaped(text: str) -> str:
    units = text.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


FORMS = {
    "plain": lambda s: s,
    "quote": quote,
    "quote, nothing safe": lambda s: quote(s, safe=""),
    "quote_plus": quote_plus,
    "quote, lower case": lambda s: lower_percents(quote(s)),
    "every byte quoted": lambda s: "".join(f"%{byte:02X}" for byte in s.encode()),
    "quoted twice": lambda s: quote(quote(s, safe=""), safe=""),
    "encodeURIComponent": lambda s: quote(s, safe="!'()*~"),
    "json": lambda s: json.dumps(s)[1:-1],
    "json, not ascii": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "json with escaped slashes": lambda s: json.dumps(s)[1:-1].replace("/", "\\/"),
    "json in json": lambda s: json.dumps(json.dumps(s))[1:-1],
    "json, all \\u": all_escaped,
    "json, all \\u, upper case": lambda s: all_escaped(s).upper().replace("\\U", "\\u"),
}


@pytest.mark.parametrize("secret", [SECRET, PLAIN], ids=["awkward", "plain"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_finds_every_form(form, secret):
    redactor = Redactor({"KEY": secret})
    assert redactor.text(form(secret)).strip('"\\') == "[redacted:KEY]"
    assert redactor.text(f"<a {form(secret)} b>").replace('"', "").replace("\\", "") == "<a [redacted:KEY] b>"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode], ids=["standard", "urlsafe"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("secret", [SECRET, PLAIN, "12345678"])
def test_finds_base64_at_every_alignment(encode, padded, secret):
    redactor = Redactor({"KEY": secret})
    for before in range(7):
        for after in range(4):
            text = encode(b"u" * before + secret.encode() + b"z" * after).decode()
            found = redactor.text(f"Basic {text if padded else text.rstrip('=')};")
            assert "[redacted:KEY]" in found
            left = found.replace("[redacted:KEY]", "").removeprefix("Basic ").removesuffix(";")
            assert len(left) <= 4 * (before + after + 4) // 3 + 4


def test_finds_base64_that_is_url_encoded():
    text = base64.b64encode(b"\xff\xfe" + SECRET.encode() + b"??").decode()
    assert "[redacted:KEY]" in Redactor({"KEY": SECRET}).text(quote(text, safe=""))


@given(before=TEXT, after=TEXT, secret=SECRETS, form=st.sampled_from(sorted(FORMS)))
def test_no_form_survives_in_any_text(before, after, secret, form):
    hidden = FORMS[form](secret)
    text = Redactor({"N": secret}).text(f"{before} {hidden} {after}")
    assert hidden not in text.replace("[redacted:N]", "\0")
    assert "[redacted:N]" in text


@given(text=st.text(max_size=200))
def test_a_text_without_the_secret_is_the_same_object(text):
    redactor = Redactor({"KEY": PLAIN})
    assert redactor.text(text) is text


@given(text=st.text(alphabet='ab%\\u"/2567061 \n', max_size=80))
def test_escapes_alone_change_nothing(text):
    assert Redactor({"KEY": 'abababab/ab"ab'}).text(text) == text or "[redacted" in Redactor(
        {"KEY": 'abababab/ab"ab'}
    ).text(text)


def test_a_mixture_of_escapes_is_found():
    text = "%73k-abc\\u0044EF0123%3456789_x"
    assert Redactor({"KEY": PLAIN}).text(f"[{text}]") == "[[redacted:KEY]]"


def test_what_stands_around_stays_as_it_was():
    text = 'a "quoted \\u0041" %41 \\n ' + PLAIN.replace("D", "\\u0044") + ' \\u0041%41" end'
    assert Redactor({"KEY": PLAIN}).text(text) == 'a "quoted \\u0041" %41 \\n [redacted:KEY] \\u0041%41" end'


def test_short_values_are_left_alone_and_named():
    redactor = Redactor({"A": "1234567", "EMPTY": "", "B": "12345678"})
    assert redactor.ignored == ("A", "EMPTY")
    assert redactor.text("1234567") == "1234567"
    assert redactor.text("12345678") == "[redacted:B]"


def test_without_secrets_nothing_changes():
    redactor = Redactor({})
    text, data = "a\\u0041%41", b"\xff"
    assert redactor.text(text) is text
    assert redactor.bytes(data) is data
    assert redactor.value([text]) == [text]


def test_overlapping_secrets_leave_nothing_of_either():
    redactor = Redactor({"INNER": "abcdefgh", "OUTER": "xxabcdefghxx", "NEXT": "ghxx12345678"})
    assert redactor.text("-xxabcdefghxx-") == "-[redacted:OUTER]-"
    assert redactor.text("-abcdefgh-") == "-[redacted:INNER]-"
    assert redactor.text("-xxabcdefghxx12345678-") in ("-[redacted:OUTER]-", "-[redacted:NEXT]-")


def test_a_secret_that_overlaps_itself():
    assert Redactor({"KEY": "abababab"}).text("-ababababab-") == "-[redacted:KEY]-"


def test_bytes_that_are_no_text():
    redactor = Redactor({"KEY": PLAIN})
    assert redactor.bytes(b"\xff\x00" + PLAIN.encode() + b"\xfe") == b"\xff\x00[redacted:KEY]\xfe"


def test_every_string_of_a_value(make):
    redactor = Redactor({"KEY": PLAIN})
    call = make.call("a", {PLAIN: True}, path=f"x/{PLAIN}")
    part = make.part(1, commit=PLAIN, content=f"see {PLAIN}", calls=[call], tool_output=None).part
    redacted = redactor.value(part)
    assert PLAIN not in repr(redacted)
    assert redacted.content == "see [redacted:KEY]"
    assert redacted.repo_checkpoint.commit_after == "[redacted:KEY]"
    assert redacted.envoi_calls[0].results[0].path == "[redacted:KEY]"
    assert attrs.evolve(redacted, content="").part == 1


def test_keys_and_values_of_mappings(make):
    trajectory = make.trajectory(labels={PLAIN: "1", "b": PLAIN})
    redacted = Redactor({"KEY": PLAIN}).value(trajectory)
    assert isinstance(redacted, Trajectory)
    assert redacted.labels == {"[redacted:KEY]": "1", "b": "[redacted:KEY]"}


def test_a_value_without_secrets_is_the_same_object(make):
    part = make.part(1, commit="c1").part
    assert Redactor({"KEY": PLAIN}).value(part) is part


def test_our_own_words_are_left_alone_even_when_they_are_a_secret(make):
    fact = make.evaluation("c1", {}, status="completed")
    assert Redactor({"KEY": "completed"}).value(fact) is fact
    part = make.part(1, part_type="reasoning").part
    assert Redactor({"KEY": "reasoning"}).value(part) is part


# -- streams --------------------------------------------------------------------------------------------


@given(
    pieces=st.lists(st.one_of(TEXT, st.sampled_from([form(PLAIN) for form in FORMS.values()])), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_a_stream_gives_what_the_whole_text_gives(pieces, cuts):
    text = "".join(pieces)
    redactor = Redactor({"KEY": PLAIN})
    stream = StreamRedactor(redactor)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    chunks = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert "".join([*map(stream.feed, chunks), stream.finish()]) == redactor.text(text)


def test_a_stream_of_single_characters_with_much_around():
    redactor = Redactor({"KEY": PLAIN})
    stream = StreamRedactor(redactor)
    text = "y" * 3000 + json.dumps(PLAIN) + all_escaped(PLAIN) + "z" * 3000
    given_out = "".join(map(stream.feed, text))
    assert "y" * 2000 in given_out
    assert given_out + stream.finish() == "y" * 3000 + '"[redacted:KEY]"[redacted:KEY]' + "z" * 3000


def test_a_stream_without_secrets_holds_nothing_back():
    stream = StreamRedactor(Redactor({}))
    assert stream.feed("abc") == "abc"
    assert stream.finish() == ""
