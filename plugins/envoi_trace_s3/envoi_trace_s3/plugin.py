"""The hooks of this plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envoi_trace_core.hookspecs import hookimpl
from envoi_trace_core.protocols import Storage
from envoi_trace_core.specs import Carried, StorageSpec
from envoi_trace_s3.options import S3Options

# Options and descriptors are all that `envoi-trace plugins` needs: the rest is imported when it is used.


async def _create(options: S3Options) -> Storage:
    from envoi_trace_s3.opening import open_storage

    return await open_storage(options)


def _secrets(_options: S3Options) -> Mapping[str, str]:
    from envoi_trace_s3.credentials import known_secrets

    return known_secrets()


def _carried(_options: S3Options) -> Carried:
    from envoi_trace_s3.carried import carried

    return carried()


@hookimpl
def envoi_trace_storages() -> Iterable[StorageSpec[S3Options]]:
    """The `s3` storage."""
    yield StorageSpec(
        name="s3",
        summary="A bucket of S3, or of a server that speaks its protocol.",
        options=S3Options,
        create=_create,
        secrets=_secrets,
        carried=_carried,
    )
