r"""Known secrets out of everything that is written.

A secret is found as it is, URL-encoded (any case, any choice of characters, `+` for a blank), JSON-escaped (`\u0061`,
`\/`, and JSON within JSON), any mixture of these, and in base64 (standard and URL-safe, at any alignment
within a longer text).

Two passes keep it fast. Plain text is searched as it is. Only where the text holds an escape that a secret's
character may hide behind are the escapes resolved and the result searched, and what is found is mapped back.
"""

from __future__ import annotations

import base64
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import quote, quote_plus, unquote

import attrs

MIN_SECRET_CHARS = 8
_MAX_BACKSLASHES = 8
_MAX_PERCENTS = 3
_MAX_ESCAPED_CHARS = 4 * (3 + 2 * _MAX_PERCENTS)
"""The longest form of one character: four bytes of UTF-8, each `%252525XX`."""
_SHORT_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_UNSHORT = {short: char for char, short in _SHORT_ESCAPES.items()}

_Span = tuple[int, int, str]


class Redactor:
    """Replaces each known value with `[redacted:NAME]`.

    Args:
        secrets: Name to value. Values shorter than 8 characters would match by chance: they are left alone, and
            named in `ignored`.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        kept = {name: value for name, value in secrets.items() if len(value) >= MIN_SECRET_CHARS}
        self.ignored: tuple[str, ...] = tuple(name for name in secrets if name not in kept)
        forms = {form: name for name, value in kept.items() for form in _forms(value)}
        # Longest first: where one secret holds another, the longer one gives its name.
        self._forms = tuple(sorted(forms.items(), key=lambda item: (-len(item[0]), item[0])))
        self._needles = tuple(form for form, _ in self._forms)
        characters = {char for form in self._needles for char in form}
        self._escapes = _escape_pattern(characters) if kept else None
        self._has_short = bool(characters & _SHORT_ESCAPES.keys())
        self.is_empty: bool = not kept
        """Whether there is nothing to look for."""
        self.max_form_chars: int = max((len(form) for form in self._needles), default=0) * _MAX_ESCAPED_CHARS

    def text(self, text: str) -> str:
        """The text without the secrets; the same object when there is none."""
        spans = self._spans(text)
        return _replace(text, spans) if spans else text

    def mask(self, data: bytes) -> bytes:
        """Bytes of the same length in which stars stand for each secret: for files that a program must read again."""
        if not self._needles:
            return data
        text = data.decode("utf-8", "surrogateescape")
        spans = self._spans(text)
        if not spans:
            return data
        pieces: list[bytes] = []
        done = 0
        for start, end, _ in spans:
            pieces.append(text[done:start].encode("utf-8", "surrogateescape"))
            pieces.append(b"*" * len(text[start:end].encode("utf-8", "surrogateescape")))
            done = end
        pieces.append(text[done:].encode("utf-8", "surrogateescape"))
        return b"".join(pieces)

    def bytes(self, data: bytes) -> bytes:
        """The same for bytes of any encoding that keeps ASCII."""
        if not self._needles:
            return data
        text = data.decode("utf-8", "surrogateescape")
        return self.text(text).encode("utf-8", "surrogateescape")

    def value[T](self, value: T) -> T:
        """An attrs value with every string in it redacted, keys of mappings too; the same object when none changes.

        Fields of a `Literal` type hold our own words, and are left alone.
        """
        if not self._needles:
            return value
        redacted: T = self._any(value)
        return redacted

    def _any(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case bytes():
                return self.bytes(value)
            case tuple() | list():
                items = [self._any(item) for item in value]
                same = all(new is old for new, old in zip(items, value, strict=True))
                return value if same else type(value)(items)
            case Mapping():
                pairs = {self._any(key): self._any(item) for key, item in value.items()}
                return value if pairs == value else pairs
            case _ if attrs.has(type(value)):
                changes = {}
                cls: Any = type(value)
                for name, alias in _text_fields(cls):
                    old = getattr(value, name)
                    new = self._any(old)
                    if new is not old:
                        changes[alias] = new
                return attrs.evolve(value, **changes) if changes else value
            case _:
                return value

    def _spans(self, text: str) -> list[_Span]:
        """Where secrets stand, in order, without overlaps."""
        spans = list(self._find(text))
        if self._may_hide(text):
            resolved, offsets, shifts = self._resolve(text)
            if offsets:
                for start, end, name in self._find(resolved):
                    first, last = bisect_left(offsets, start), bisect_left(offsets, end)
                    spans.append((start + shifts[first], end + shifts[last], name))
        return _merged(spans) if spans else spans

    def _find(self, text: str) -> Iterator[_Span]:
        for form, name in self._forms:
            at = text.find(form)
            while at >= 0:
                yield at, at + len(form), name
                at = text.find(form, at + 1)

    def _may_hide(self, text: str) -> bool:
        if self._escapes is None:
            return False
        return "%" in text or "\\u" in text or (self._has_short and "\\" in text)

    def _resolve(self, text: str) -> tuple[str, list[int], list[int]]:
        """The text with escapes resolved; their offsets in it; how much longer the text is before each, and in all."""
        assert self._escapes is not None
        pieces: list[str] = []
        offsets: list[int] = []
        shifts = [0]
        done = 0
        for match in self._escapes.finditer(text):
            char = _resolved(match[0])
            if len(char) != 1:
                continue
            pieces += (text[done : match.start()], char)
            offsets.append(match.start() - shifts[-1])
            shifts.append(shifts[-1] + len(match[0]) - 1)
            done = match.end()
        pieces.append(text[done:])
        return "".join(pieces), offsets, shifts


class StreamRedactor:
    """Redacts a text that comes in chunks, a secret that is split over them too.

    What may still become a secret is held back, up to `Redactor.max_form_chars` characters.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, chunk: str) -> str:
        """What is safe to write by now."""
        text = self._held + chunk
        cut = max(0, len(text) - self._redactor.max_form_chars)
        spans = self._redactor._spans(text)
        for start, end, _ in spans:
            if start < cut < end:
                cut = start
        self._held = text[cut:]
        return _replace(text[:cut], [span for span in spans if span[1] <= cut])

    def finish(self) -> str:
        """The rest."""
        held, self._held = self._held, ""
        return self._redactor.text(held)


def _forms(secret: str) -> Iterable[str]:
    """Every form of a secret that does not come from escaping single characters."""
    forms = {secret, secret.replace(" ", "+"), *_base64_cores(secret.encode("utf-8", "surrogatepass"))}
    for ensure_ascii in (True, False):
        once = json.dumps(secret, ensure_ascii=ensure_ascii)[1:-1]
        twice = json.dumps(once, ensure_ascii=ensure_ascii)[1:-1]
        forms |= {once, twice, once.replace("/", "\\/")}
    if "%" in secret:  # what looks like an escape in the secret itself would be resolved once too often
        raw = secret.encode("utf-8", "surrogatepass")
        quoted = {quote(raw), quote(raw, safe=""), quote_plus(raw)}
        forms |= quoted | {re.sub("%..", lambda escape: escape[0].lower(), text) for text in quoted}
    return sorted(forms)


def _base64_cores(data: bytes) -> Iterator[str]:
    """For each alignment the characters of a base64 text that depend on the secret alone."""
    for before in range(3):
        bits_before, bits = 8 * before, 8 * len(data)
        first = -(-bits_before // 6)
        last = (bits_before + bits) // 6
        padded = b"\0" * before + data
        yield base64.b64encode(padded).decode()[first:last]
        yield base64.urlsafe_b64encode(padded).decode()[first:last]


def _escape_pattern(characters: set[str]) -> re.Pattern[str]:
    """Every escape of one of these characters. Bounded repeats, so that a long run costs no more."""
    percents = f"%(?:25){{0,{_MAX_PERCENTS}}}"
    slashes = rf"\\{{1,{_MAX_BACKSLASHES}}}"
    octets = {percents.join(_any_case(f"{byte:02x}") for byte in _utf8(char)) for char in characters}
    units = {f"{slashes}u".join(_any_case(unit) for unit in _utf16(char)) for char in characters}
    shorts = "".join(re.escape(short) for char, short in _SHORT_ESCAPES.items() if char in characters)
    behind_slashes = [f"u(?:{'|'.join(sorted(units))})", *([f"[{shorts}]"] if shorts else [])]
    # The set in front lets the scan skip all that is no escape.
    return re.compile(rf"(?=[%\\])(?:{percents}(?:{'|'.join(sorted(octets))})|{slashes}(?:{'|'.join(behind_slashes)}))")


def _any_case(hexadecimal: str) -> str:
    return "".join(f"[{char}{char.upper()}]" if char.isalpha() else char for char in hexadecimal)


def _utf16(char: str) -> list[str]:
    units = char.encode("utf-16-be", "surrogatepass")
    return [units[at : at + 2].hex() for at in range(0, len(units), 2)]


def _utf8(char: str) -> bytes:
    return char.encode("utf-8", "surrogatepass")


def _resolved(escape: str) -> str:
    if escape.startswith("%"):
        return unquote(re.sub(r"%(?:25)+(?=[0-9a-fA-F]{2})", "%", escape), errors="replace")
    if escape[-1] in _UNSHORT and "u" not in escape:
        return _UNSHORT[escape[-1]]
    units = bytes.fromhex("".join(re.findall(r"u([0-9a-fA-F]{4})", escape)))
    return units.decode("utf-16-be", "surrogatepass")


def _merged(spans: list[_Span]) -> list[_Span]:
    """Overlapping spans as one, under the name of the longest of them."""
    spans.sort(key=lambda span: (span[0], -span[1]))
    merged: list[_Span] = []
    longest = 0
    for start, end, name in spans:
        if merged and start < merged[-1][1]:
            first, last, first_name = merged[-1]
            is_longer = end - start > longest
            merged[-1] = (first, max(last, end), name if is_longer else first_name)
            longest = max(longest, end - start)
        else:
            merged.append((start, end, name))
            longest = end - start
    return merged


def _replace(text: str, spans: Iterable[_Span]) -> str:
    pieces: list[str] = []
    done = 0
    for start, end, name in spans:
        pieces += (text[done:start], f"[redacted:{name}]")
        done = end
    pieces.append(text[done:])
    return "".join(pieces)


@cache
def _text_fields(cls: Any) -> tuple[tuple[str, str], ...]:
    """Name and alias of each field that may hold foreign text."""
    hints = get_type_hints(cls)
    return tuple(
        (field.name, field.alias or field.name)
        for field in attrs.fields(cls)
        if field.init and not _is_literal(hints.get(field.name))
    )


def _is_literal(hint: Any) -> bool:
    return get_origin(hint) is Literal or any(get_origin(each) is Literal for each in get_args(hint))
