"""Which storage: the one rule, for runs and for all that reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs

from envoi_trace_core.options import parse_options
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.specs import StorageSpec

BUCKET_VARIABLE = "AWS_S3_BUCKET"


@attrs.frozen(kw_only=True)
class StorageChoice:
    """A storage with its options, and why it is that one."""

    spec: StorageSpec[Any]
    options: Any
    reason: str


def choose_storage(plugins: Plugins, name: str | None, opts: Sequence[str]) -> StorageChoice:
    """The storage of that name; without one, `s3` when a bucket is named and the plugin is there, else `local`.

    Raises:
        UsageError: There is no such storage, or an option is wrong.
        PluginError: Its plugin is broken.
    """
    if name is None:
        name, reason = _default(plugins)
    else:
        reason = "as asked"
    spec = plugins.storage(name)
    return StorageChoice(spec=spec, options=parse_options(spec.options, opts, "storage", name), reason=reason)


def _default(plugins: Plugins) -> tuple[str, str]:
    if not os.environ.get(BUCKET_VARIABLE):
        return "local", f"{BUCKET_VARIABLE} is not set"
    if "s3" in plugins.names("storage"):
        return "s3", f"{BUCKET_VARIABLE} is set"
    return "local", f"{BUCKET_VARIABLE} is set, but s3 needs: pip install 'envoi-trace[s3]'"
