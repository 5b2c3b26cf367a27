"""The token: `modal setup` writes it to ~/.modal.toml, or MODAL_TOKEN_ID and MODAL_TOKEN_SECRET hold it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import Carried

MEND = "modal setup"
PASSED_ON = ("MODAL_ENVIRONMENT", "MODAL_SERVER_URL")


def known_secrets() -> Mapping[str, str]:
    """What must be redacted from all that is written.

    Raises:
        UsageError: There is no token, so nothing can be started.
    """
    token_id, token_secret = _token()
    if token_id and token_secret:
        return {"MODAL_TOKEN_SECRET": token_secret}
    if os.environ.get("MODAL_IS_REMOTE") == "1":
        return {}  # in a function on Modal the SDK is let in without one
    raise UsageError("Modal needs a token, and there is none on this machine", mend=MEND)


def carried() -> Carried:
    """What an orchestrator elsewhere needs to make sandboxes in the same workspace.

    Raises:
        UsageError: There is no token.
    """
    secrets = known_secrets()
    token_id, _ = _token()
    others = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    return Carried(variables={"MODAL_TOKEN_ID": token_id, **secrets, **others} if secrets else others)


def _token() -> tuple[str, str]:
    """Id and secret, each empty when it is missing. Variables come before the file, as in the SDK."""
    from envoi_trace_modal.sandbox.calls import sdk

    sdk()
    from modal.config import config

    return str(config.get("token_id") or ""), str(config.get("token_secret") or "")
