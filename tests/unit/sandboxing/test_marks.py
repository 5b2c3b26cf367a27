"""Marks in an output: found whatever the pieces, and nothing of the data lost."""

from __future__ import annotations

import subprocess

from hypothesis import given
from hypothesis import strategies as st

from envoi_trace_core.sandboxing.marks import Mark, MarkedOutput, new_token, wrapped

TOKEN = new_token()
NEAR = st.sampled_from([TOKEN[:1], TOKEN[:7], TOKEN[:-1], TOKEN + "x" * 80, "\n", "plain"]).map(str.encode)


@given(st.lists(st.one_of(st.binary(max_size=12), NEAR), max_size=8), st.lists(st.integers(1, 9), min_size=1))
def test_data_and_marks_come_apart_whatever_the_pieces(pieces, sizes):
    data = b"".join(pieces).replace(TOKEN.encode() + b"x", TOKEN.encode()[:-1] + b"x")  # no mark by accident
    whole = TOKEN.encode() + b"start 7\n" + data + TOKEN.encode() + b"end 3\n"
    output, found = MarkedOutput(TOKEN), []
    at = n = 0
    while at < len(whole):
        size = sizes[n % len(sizes)]
        found += output.feed(whole[at : at + size])
        at, n = at + size, n + 1
    assert [item for item in found if isinstance(item, Mark)] == [Mark(("start", "7")), Mark(("end", "3"))]
    assert b"".join(item for item in found if isinstance(item, bytes)) + output.rest() == data


def said(*argv: str, **more: str) -> list[bytes | Mark]:
    done = subprocess.run(wrapped(argv, token=TOKEN, **more), capture_output=True, input=b"fed\n", check=False)
    return [*MarkedOutput(TOKEN).feed(done.stdout), *MarkedOutput(TOKEN).feed(done.stderr)]


def test_a_command_is_marked(tmp_path):
    assert said("sh", "-c", "echo out; exit 3", cwd="/")[:2] == [b"out\n", Mark(("end",))]
    assert said("sh", "-c", "echo out; exit 3", cwd="/")[-1] == Mark(("end", "3"))
    assert said("no-such-command", cwd="/") == [Mark(("nocommand",))]
    assert said("true", cwd="/no/such/folder") == [Mark(("nocwd",))]


def test_input_is_nothing_or_what_is_fed_or_a_file_that_is_removed(tmp_path):
    assert said("cat", cwd="/")[0] == Mark(("end",))
    assert said("cat", cwd="/", input_path="")[0] == b"fed\n"
    (given_file := tmp_path / "input").write_text("from a file\n")
    assert said("cat", cwd="/", input_path=str(given_file))[0] == b"from a file\n"
    assert not given_file.exists()
