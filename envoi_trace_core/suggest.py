"""Did you mean: one way of saying it, for plugins, options, settings and parameters."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with its leading space, or nothing when nothing known is near."""
    from difflib import get_close_matches

    matches = get_close_matches(word, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
