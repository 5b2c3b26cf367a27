"""A page that holds all it needs: our scripts and styles by their hashes, and data that no browser runs.

What comes out of a trace reaches the page in two ways only: as escaped text, and as base64 of compressed JSON, which
the page's scripts set as text. The page's policy lets nothing else run, and nothing be fetched.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import attrs

ASSETS = "assets"


@attrs.frozen(kw_only=True)
class DataBlock:
    """Data of a page, in a script element that no browser runs."""

    value: Any
    """What JSON can hold."""
    element_id: str = ""
    css_class: str = ""

    def html(self) -> str:
        """The element."""
        text = json.dumps(self.value, separators=(",", ":"), allow_nan=False)
        packed = base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")
        names = "".join(
            f' {name}="{value}"' for name, value in (("id", self.element_id), ("class", self.css_class)) if value
        )
        return f'<script type="application/octet-stream"{names}>{packed}</script>'


def page_bytes(
    *,
    title: str,
    subtitle: str,
    body: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    blocks: Sequence[DataBlock],
) -> bytes:
    """A whole page.

    Args:
        title: Any text.
        subtitle: Any text.
        body: HTML of our own, below the title.
        styles: Files of the assets.
        scripts: Likewise, run in this order once all data is there.
        blocks: The page's data.
    """
    style = "\n".join(_asset(name) for name in styles)
    script = "\n".join(_asset(name) for name in scripts)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="generator" content="envoi-trace">',
        f"<title>{_text(title)}</title>",
        f"<style>{style}</style>",
        "<body>",
        f'<header><div><h1>{_text(title)}</h1><div class="soft">{_text(subtitle)}</div></div></header>',
        '<noscript><p class="failure">This report needs JavaScript.</p></noscript>',
        body,
        *(block.html() for block in blocks),
        f"<script>{script}</script>",
        "",
    ]
    return "\n".join(parts).encode("utf-8", "replace")


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(ASSETS, name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: str) -> str:
    return html.escape(text.replace("\0", "\ufffd"))
