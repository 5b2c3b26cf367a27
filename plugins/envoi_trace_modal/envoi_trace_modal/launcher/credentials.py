"""What the plugins of a run need on another machine, as one secret: collected here, put in place there.

Nothing of it is ever an argument: those are kept with the call, and anybody who may see the app may read them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.errors import UsageError
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.plan import Chosen, RunPlan
from envoi_trace_core.run.resume import stored_config, without_secrets
from envoi_trace_core.specs import Carried
from envoi_trace_core.trace.redact import Redactor

FILES_VARIABLE = "ENVOI_TRACE_CARRIED_FILES"
OPTIONS_VARIABLE = "ENVOI_TRACE_CARRIED_OPTIONS"
SHARED_SETTINGS = ("ENVOI_TRACE_LEASE_STALENESS_S",)
"""On which all runs that share a storage must agree."""
MODALS_OWN = "MODAL_"
"""Variables that a function on Modal has from Modal, which lets it in without a token: the user's stays here."""
MAX_SECRET_BYTES = 64 * 1024
OPTION_FIELDS = ("agent_opts", "sandbox_opts", "storage_opts")


@attrs.frozen(kw_only=True)
class Luggage:
    """What travels beside the configuration, and the configuration without any of it."""

    config: RunConfig
    secret: Mapping[str, str] = attrs.field(repr=False)
    """Variables of the function's environment."""
    notes: tuple[str, ...]


def collect(plan: RunPlan) -> Luggage:
    """Everything secret that the run needs there.

    Raises:
        UsageError: It is too large for a secret, or a credential stands in the configuration itself.
    """
    variables: dict[str, str] = {name: os.environ[name] for name in SHARED_SETTINGS if name in os.environ}
    files: dict[str, str] = {}
    notes: list[str] = []
    for chosen in (plan.sandbox, plan.agent, plan.storage):
        carried = _carried(chosen)
        variables |= carried.variables
        files |= carried.files
        notes += carried.notes
    variables = {name: value for name, value in variables.items() if not name.startswith(MODALS_OWN)}
    options = _secret_words(plan)
    if files:
        variables[FILES_VARIABLE] = json.dumps(files)
    if options:
        variables[OPTIONS_VARIABLE] = json.dumps(options)
    size_bytes = sum(len(name) + len(value.encode()) for name, value in variables.items())
    if size_bytes > MAX_SECRET_BYTES:
        raise UsageError(
            f"the credentials of this run are too large for a secret: more than {MAX_SECRET_BYTES // 1024} KiB",
            mend="name a smaller login file (auth_file=), or use an API key",
        )
    config = stored_config(plan)
    text = config.to_json()
    if Redactor(plan.secrets).text(text) != text:
        raise UsageError(
            "a credential stands in an option, a label or a parameter of this run, and would be stored with it",
            mend="give credentials in the variables that the plugins read",
        )
    return Luggage(config=config, secret=variables, notes=tuple(notes))


def put_in_place(config: RunConfig) -> RunConfig:
    """On the other machine: the files where the plugins look for them, and the options as they were."""
    for name, text in _taken(FILES_VARIABLE).items():
        path = Path(name).expanduser()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
    words = _taken(OPTIONS_VARIABLE)
    changes: dict[str, Any] = {name: (*getattr(config, name), *words[name]) for name in OPTION_FIELDS if name in words}
    return attrs.evolve(config, **changes) if changes else config


def _taken(variable: str) -> dict[str, Any]:
    """A variable's JSON; it goes out of the environment, which programs that are started here inherit."""
    text = os.environ.pop(variable, "")
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def _carried(chosen: Chosen[Any]) -> Carried:
    spec = chosen.spec
    if spec.carried is not None:
        carried: Carried = spec.carried(chosen.options)
        return carried
    values = set(spec.secrets(chosen.options).values())
    return Carried(variables={name: value for name, value in os.environ.items() if value in values})


def _secret_words(plan: RunPlan) -> dict[str, list[str]]:
    found = {}
    chosen_ones: tuple[Chosen[Any], ...] = (plan.agent, plan.sandbox, plan.storage)
    for name, chosen in zip(OPTION_FIELDS, chosen_ones, strict=True):
        words = getattr(plan.config, name)
        plain = without_secrets(words, chosen.spec.options)
        secret = [word for word in words if word not in plain]
        if secret:
            found[name] = secret
    return found
