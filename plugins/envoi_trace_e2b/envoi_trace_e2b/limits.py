"""How long a sandbox may live on E2B. Source: https://e2b.dev/docs/billing, and the SDK's own docstrings."""

from __future__ import annotations

from envoi_trace_e2b.options import E2bOptions, Plan

PLAN_LIFETIME_S: dict[Plan, float] = {"hobby": 3600.0, "pro": 86400.0}


def max_lifetime_s(options: E2bOptions) -> float:
    """How long a sandbox may run without a pause."""
    return options.max_lifetime_s if options.max_lifetime_s > 0 else PLAN_LIFETIME_S[options.plan]
