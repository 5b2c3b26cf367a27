from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from envoi_trace_core.sandboxing.lines import Line, LineSplitter


def split(chunks: list[bytes], offset: int = 0, max_line_bytes: int = 1000) -> list[Line]:
    splitter = LineSplitter(offset, max_line_bytes)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    rest = splitter.finish()
    return lines if rest is None else [*lines, rest]


@given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"a", b"\n"))), st.integers(0, 10**12))
def test_any_chunking_gives_the_same_lines_and_offsets(chunks: list[bytes], offset: int) -> None:
    data = b"".join(chunks)
    lines = split(chunks, offset)
    assert lines == split([data] if data else [], offset)
    assert b"\n".join(line.data for line in lines) == data.removesuffix(b"\n")
    for line in lines:
        before = data[: line.end_offset - offset]
        assert before.removesuffix(b"\n").endswith(line.data)
    # Reading on from any line's end gives the rest.
    for number, line in enumerate(lines):
        assert split([data[line.end_offset - offset :]], line.end_offset)[:] == lines[number + 1 :]


def test_long_lines_are_cut_and_counted_whole() -> None:
    lines = split([b"x" * 30, b"y" * 30 + b"\nshort\n" + b"z" * 11], max_line_bytes=10)
    assert [(line.data, line.end_offset, line.cut) for line in lines] == [
        (b"x" * 10, 61, True),
        (b"short", 67, False),
        (b"z" * 10, 78, True),
    ]


def test_a_line_of_exactly_the_bound_is_whole() -> None:
    assert [line.cut for line in split([b"x" * 10 + b"\n"], max_line_bytes=10)] == [False]


def test_nothing_gives_no_line() -> None:
    assert split([]) == []
    assert [line.data for line in split([b"\n"])] == [b""]
