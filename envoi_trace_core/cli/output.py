"""How the command line prints: plain lines, tables, colours on a terminal only, JSON. Nothing here is heavy.

What comes from an agent or a sandbox is untrusted: `printable` takes away whatever a terminal would obey.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import attrs

Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]
_CODES: dict[Style, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset({"\u200c", "\u200d"})  # part of words and emoji


def printable(text: str) -> str:
    """One line that no terminal obeys: line ends and tabs become spaces, other control characters are shown."""
    return printable_line(text).strip()


def printable_line(text: str) -> str:
    """The same, with the spaces at its ends."""
    return " ".join(_escape(text).replace("\t", " ").split("\n"))


def printable_block(text: str) -> str:
    """Several lines that no terminal obeys: only line ends and tabs stay as they are."""
    return _escape(text)


def _escape(text: str) -> str:
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else _shown(char) for char in text)


def _is_harmless(char: str) -> bool:
    # Category Cf holds the bidirectional overrides, with which a line can be made to read as another one.
    return char in "\n\t" or char in _JOINERS or unicodedata.category(char) not in _UNSAFE_CATEGORIES


def _shown(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def out(line: str = "") -> None:
    """A line of the result, on stdout."""
    sys.stdout.write(line + "\n")


def flush() -> None:
    """Show at once what was printed: for a result that comes line by line."""
    sys.stdout.flush()


def note(line: str) -> None:
    """A line for the person who watches, on stderr."""
    sys.stderr.write(line + "\n")


def warn(line: str) -> None:
    """A warning, one line on stderr."""
    note(f"{styled('warning:', 'yellow', sys.stderr)} {printable(line)}")


def out_json(value: Any) -> None:
    """A JSON document on stdout; attrs values, datetimes and paths are written as one expects."""
    sys.stdout.write(json.dumps(value, indent=2, default=_jsonable, ensure_ascii=False) + "\n")


def _jsonable(value: Any) -> Any:
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)


def has_colour(stream: TextIO) -> bool:
    """Whether colours are wanted there: a terminal, and `NO_COLOR` unset (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Style | None, stream: TextIO | None = None) -> str:
    """The text in a style, where that is wanted."""
    if style is None or not text or not has_colour(stream or sys.stdout):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def width() -> int | None:
    """Columns of the terminal; None when stdout is none, so that nothing is cut for a program that reads it."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@attrs.frozen
class Cell:
    """A table's cell that has a style of its own."""

    text: str
    style: Style | None = None


def out_table(
    head: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, right: Iterable[int] = (), gap: str = "  "
) -> None:
    """Print `table_lines`."""
    for line in table_lines(head, rows, right=right, gap=gap):
        out(line)


def table_lines(
    head: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, right: Iterable[int] = (), gap: str = "  "
) -> Iterator[str]:
    """A table as aligned columns. On a terminal the last column is cut to fit; elsewhere nothing is cut.

    Args:
        head: Titles of the columns.
        rows: Cells; their text is made printable.
        right: Indices of the columns that are aligned to the right.
        gap: Between columns.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(columns, (title, *(row[index].text for row in cells)))) for index, title in enumerate(head)]
    rights, limit = frozenset(right), width()
    for row in ([Cell(title, "dim") for title in head], *cells):
        words: list[str] = []
        used = 0
        for index, cell in enumerate(row):
            last = index == len(row) - 1
            text = cell.text
            if last and limit is not None:
                text = cut(text, max(limit - used, 8))
            padding = " " * (widths[index] - columns(text))
            word = styled(text, cell.style)
            words.append(padding + word if index in rights else word + ("" if last else padding))
            used += widths[index] + len(gap)
        yield gap.join(words).rstrip()


def _cell(cell: str | Cell) -> Cell:
    return Cell(printable(cell.text), cell.style) if isinstance(cell, Cell) else Cell(printable(cell))


def out_fields(fields: Iterable[tuple[str, str | Cell | None]]) -> None:
    """Names and values, one a line, aligned; a field whose value is None is left out."""
    shown = [(name, value) for name, value in fields if value is not None]
    name_width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        cell = _cell(value)
        out(f"{styled(name.ljust(name_width), 'dim')}  {styled(cell.text, cell.style)}")


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) or c in _JOINERS else 1 + (unicodedata.east_asian_width(c) in "WF")
               for c in text)  # fmt: skip


def cut(text: str, limit: int) -> str:
    """The text in at most `limit` columns; what was cut shows as `…`."""
    if columns(text) <= limit:
        return text
    used, kept = 1, []
    for char in text:
        used += columns(char)
        if used > limit:
            break
        kept.append(char)
    return "".join(kept) + "…"


def age(moment: datetime, now: datetime | None = None) -> str:
    """How long ago, in one unit: `12s`, `5m`, `3h`, `9d`."""
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def duration(seconds: float) -> str:
    """A length of time: `0.3s`, `42s`, `5m 03s`, `2h 07m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole // 60 % 60:02}m"
