"""A whole third-party plugin: one of each kind."""

from typing import Literal

import attrs

from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.specs import (
    AgentSpec,
    LauncherSpec,
    NoOptions,
    PartParserSpec,
    SandboxSpec,
    StorageSpec,
    option,
)


@attrs.frozen(kw_only=True)
class AcmeOptions:
    region: Literal["eu", "us"] = option("eu", "where it stands")
    lifetime_s: float = option(60.0, "how long it lives", unit="s")
    key: str = option("", "the account's key", secret=True)


def never(*args):
    raise AssertionError("looking a plugin up must not use it")


@hookimpl
def envoi_trace_agents():
    yield AgentSpec(name="acme", summary="ACME's agent", options=AcmeOptions, event_format="acme-events", create=never)


@hookimpl
def envoi_trace_sandboxes():
    return [
        SandboxSpec(
            name="acme-cloud", summary="ACME's cloud", options=AcmeOptions, create=never, attach=never, list_live=never
        )
    ]


@hookimpl
def envoi_trace_storages():
    yield StorageSpec(name="acme-store", summary="ACME's store", options=AcmeOptions, create=never)


@hookimpl
def envoi_trace_part_parsers():
    yield PartParserSpec(name="acme-events", summary="ACME's events", create=never)


@hookimpl
def envoi_trace_launchers():
    yield LauncherSpec(name="acme", summary="ACME's queue", options=NoOptions, create=never)
