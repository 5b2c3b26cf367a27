"""The five hooks. A plugin is a module, named by an entry point of the group `envoi_trace`, that implements some.

```toml
[project.entry-points.envoi_trace]
acme = "envoi_trace_acme.plugin"
```
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from envoi_trace_core.specs import AgentSpec, LauncherSpec, PartParserSpec, SandboxSpec, StorageSpec

PROJECT = "envoi_trace"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook."""


class EnvoiTraceHooks:
    """Each hook gives an iterable of descriptors, does no work and no I/O, and imports no SDK."""

    @hookspec
    def envoi_trace_agents(self) -> Iterable[AgentSpec[Any]]:
        """Agents that can be run.

        Example:
            ```python
            @hookimpl
            def envoi_trace_agents():
                yield AgentSpec(name="acme", summary="The ACME agent", options=AcmeOptions,
                                event_format="acme-events", create=create_session)
            ```
        """
        return ()

    @hookspec
    def envoi_trace_sandboxes(self) -> Iterable[SandboxSpec[Any]]:
        """Sandboxes in which agents and tests can run.

        Example:
            ```python
            @hookimpl
            def envoi_trace_sandboxes():
                yield SandboxSpec(name="acme", summary="ACME's cloud", options=AcmeOptions,
                                  create=create, attach=attach, list_live=list_live)
            ```
        """
        return ()

    @hookspec
    def envoi_trace_storages(self) -> Iterable[StorageSpec[Any]]:
        """Storages that keep the artifacts.

        Example:
            ```python
            @hookimpl
            def envoi_trace_storages():
                yield StorageSpec(name="acme", summary="ACME's object store", options=AcmeOptions, create=create)
            ```
        """
        return ()

    @hookspec
    def envoi_trace_part_parsers(self) -> Iterable[PartParserSpec]:
        """Parsers of native events, found by the event format that an agent names.

        Example:
            ```python
            @hookimpl
            def envoi_trace_part_parsers():
                yield PartParserSpec(name="acme-events", summary="ACME's event log", create=AcmeParser)
            ```
        """
        return ()

    @hookspec
    def envoi_trace_launchers(self) -> Iterable[LauncherSpec[Any]]:
        """Places where the orchestrator itself can run.

        Example:
            ```python
            @hookimpl
            def envoi_trace_launchers():
                yield LauncherSpec(name="acme", summary="ACME's job queue", options=AcmeOptions, create=AcmeLauncher)
            ```
        """
        return ()
