"""Placeholders in a prompt, and the braces that are none.

`{name}` is a placeholder when `name` is a plain identifier (ASCII letters, digits, `_`; no digit first), with nothing
else between the braces. Precisely, from left to right:

- `{{name}}` gives `{name}`.
- `${name}` stays: a shell's variable.
- `{name}` gives the parameter's value if there is such a parameter.
- `{name}` without such a parameter is an error, except in a fenced code block of Markdown, where it stays.
- All other braces stay: `{}`, `{ x }`, `{0}`, `{"a": 1}`, `{a, b}`, `int main() { return 0; }`, `{{1, 2}, {3, 4}}`.

Values are put in once: a placeholder within a value stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from envoi_trace_core.errors import UsageError
from envoi_trace_core.suggest import did_you_mean

_PLACEHOLDER = re.compile(r"\{\{(?P<escaped>[A-Za-z_][A-Za-z0-9_]*)\}\}|(?<!\$)\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}")
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<rest>[^\n]*)")


@attrs.frozen(kw_only=True)
class Rendered:
    """A prompt with its parameters in place."""

    text: str
    used: frozenset[str]
    """The parameters that it names."""


def render(template: str, params: Mapping[str, Any], *, source: str) -> Rendered:
    """Put the parameters into a prompt, as this module's docstring says.

    Args:
        template: The prompt as it was written.
        params: A text stands as it is, anything else as JSON.
        source: Where the template is from, for the error.

    Raises:
        UsageError: A placeholder has no parameter; the message names it and its line.
    """
    used: set[str] = set()
    lines: list[str] = []
    for number, (line, in_code) in enumerate(_lines(template), start=1):

        def value(match: re.Match[str], number: int = number, in_code: bool = in_code) -> str:
            if match["escaped"] is not None:
                return "{" + match["escaped"] + "}"
            name = match["name"]
            if name in params:
                used.add(name)
                return as_text(params[name])
            if in_code:
                return match[0]
            raise UsageError(
                f"{source}, line {number}: the placeholder {{{name}}} has no parameter.{did_you_mean(name, params)}",
                mend=f"--param {name}=VALUE, or write {{{{{name}}}}} if the braces are meant",
            )

        lines.append(_PLACEHOLDER.sub(value, line))
    return Rendered(text="".join(lines), used=frozenset(used))


def as_text(value: Any) -> str:
    """A parameter's value as it stands in a prompt."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line with its end, and whether it is in a fenced code block (https://spec.commonmark.org, 4.5)."""
    fence = ""
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        match = _FENCE.match(line)
        if fence:
            yield line, True
            if match and match["fence"].startswith(fence) and not match["rest"].strip():
                fence = ""
        elif match and not ("`" in match["fence"] and "`" in match["rest"]):
            fence = match["fence"]
            yield line, True
        else:
            yield line, False
