"""How long a sandbox may live on Modal. Source: https://modal.com/docs/guide/sandbox (24 hours, never extended)."""

from __future__ import annotations

from envoi_trace_modal.sandbox.options import ModalOptions

LONGEST_S = 24 * 3600.0


def max_lifetime_s(options: ModalOptions) -> float:
    """The longest that one can live."""
    return min(options.timeout or LONGEST_S, LONGEST_S)


def lifetime_s(wanted_s: float, options: ModalOptions) -> int:
    """Of a sandbox that is wanted for so long; in whole seconds, as the API takes them."""
    return max(1, int(min(wanted_s, max_lifetime_s(options))))
