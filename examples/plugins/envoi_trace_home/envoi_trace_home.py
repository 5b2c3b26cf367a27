"""A storage that keeps trajectories below the user's home folder, whatever the working directory is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.protocols import Storage
from envoi_trace_core.specs import StorageSpec, option


@attrs.frozen(kw_only=True)
class HomeOptions:
    folder: str = option("envoi-trace", "folder below the home folder")


async def create(options: HomeOptions) -> Storage:
    root = Path.home() / options.folder
    root.mkdir(parents=True, exist_ok=True)
    return LocalStorage(root)


@hookimpl
def envoi_trace_storages() -> Iterable[StorageSpec[Any]]:
    yield StorageSpec(name="home", summary="Files below the home folder.", options=HomeOptions, create=create)
