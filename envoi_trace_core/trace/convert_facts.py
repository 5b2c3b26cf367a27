"""Facts of the journal, and the header of a trace, as JSON and back."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, get_args

from cattrs import Converter

from envoi_trace_core.domain.facts import Fact
from envoi_trace_core.trace.strict import strict_converter

_KINDS: dict[str, type[Any]] = {cls.__name__: cls for cls in get_args(Fact)}


@cache
def converter() -> Converter:
    """The one converter of facts and headers."""
    return strict_converter(is_stored_for_good=True)


def fact_to_json(fact: Fact) -> str:
    """One line, with the kind of the fact in it."""
    body = converter().unstructure(fact)
    return json.dumps({"kind": type(fact).__name__, "fact": body}, separators=(",", ":"))


def fact_from_json(text: str | bytes) -> Fact:
    """Read what `fact_to_json` wrote.

    Raises:
        TypeError, ValueError, KeyError: It is no fact that this version knows.
    """
    line = json.loads(text)
    kind = line["kind"]
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of fact {kind!r:.80}")
    fact: Fact = converter().structure(line["fact"], _KINDS[kind])
    return fact


def value_to_json(value: Any) -> str:
    """An attrs value (or None) as JSON text."""
    return json.dumps(converter().unstructure(value), separators=(",", ":"))


def value_from_json[T](text: str | bytes, cls: type[T]) -> T:
    """Read what `value_to_json` wrote.

    Raises:
        TypeError, ValueError, KeyError: It does not fit the class.
    """
    return converter().structure(json.loads(text), cls)
