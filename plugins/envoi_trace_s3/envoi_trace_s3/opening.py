"""From options and environment to a storage that is known to work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import attrs

from envoi_trace_core.errors import StorageError, UsageError
from envoi_trace_core.protocols import Storage
from envoi_trace_s3.failures import Place, storage_error
from envoi_trace_s3.operation import OVERRUN_S, run_bounded, watch
from envoi_trace_s3.options import S3Options
from envoi_trace_s3.storage import POOL_SIZE, S3Storage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEFAULT_REGION = "us-east-1"
PROBE_BOUND_S = 14.0 - OVERRUN_S
CONNECT_TIMEOUT_S = 4.0
READ_TIMEOUT_S = 20.0
MAX_ATTEMPTS = 6


async def open_storage(options: S3Options) -> Storage:
    """Connect, and ask the bucket for one key, so that what is set up wrongly is said before anything starts.

    Raises:
        UsageError: There is no bucket, no access, no valid credentials.
        StorageError: The server can't be reached, or is busy.
    """
    place, encryption = _place(options), _encryption(options)
    try:
        client = await anyio.to_thread.run_sync(_client, place)
    except Exception as error:
        raise _refused(storage_error(error, f"opening {place.uri('')}", place)) from error
    storage = S3Storage(client, attrs.evolve(place, region=client.meta.region_name or place.region), encryption)
    try:
        await run_bounded(PROBE_BOUND_S, lambda _operation: storage.probe(), limiter=storage.limiter)
    except BaseException as error:
        client.close()
        if not isinstance(error, Exception):
            raise
        raise _refused(storage_error(error, f"listing {place.uri('')}", storage.place)) from error
    return storage


def _refused(error: StorageError) -> StorageError | UsageError:
    return error if error.retryable else UsageError(error.message, mend=error.mend)


def _place(options: S3Options) -> Place:
    bucket = (options.bucket or os.environ.get("AWS_S3_BUCKET", "")).strip()
    if not bucket:
        raise UsageError(
            "the s3 storage needs a bucket, and none is set",
            mend="export AWS_S3_BUCKET=NAME, or --storage-opt bucket=NAME",
        )
    bucket, _, folder = bucket.removeprefix("s3://").partition("/")
    prefix = "/".join(segment for segment in f"{folder}/{options.prefix}".split("/") if segment)
    endpoint_url = options.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return Place(
        bucket=bucket,
        prefix=f"{prefix}/" if prefix else "",
        region=options.region or os.environ.get("AWS_REGION", ""),
        endpoint_url=endpoint_url or "",
    )


def _encryption(options: S3Options) -> dict[str, str]:
    sse = options.sse or ("aws:kms" if options.kms_key else "")
    if sse not in ("", "AES256", "aws:kms", "aws:kms:dsse"):
        raise UsageError(f"sse={sse!r:.80} is no encryption of S3: AES256 or aws:kms", mend="--storage-opt sse=aws:kms")
    if options.kms_key and not sse.startswith("aws:kms"):
        raise UsageError(f"a KMS key is not used with sse={sse}", mend="--storage-opt sse=aws:kms")
    found = {"ServerSideEncryption": sse} if sse else {}
    return {**found, "SSEKMSKeyId": options.kms_key} if options.kms_key else found


def _client(place: Place) -> S3Client:
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    settings: dict[str, Any] = {}
    if place.endpoint_url:
        settings["s3"] = {"addressing_style": "path"}  # a server on a plain host name has no name for each bucket
    config = Config(
        retries={"mode": "adaptive", "total_max_attempts": MAX_ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=POOL_SIZE,
        # Checksums are made here and sent as headers; other servers refuse those that boto3 sends by itself.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **settings,
    )
    client = session.client(
        "s3",
        region_name=place.region or session.region_name or DEFAULT_REGION,
        endpoint_url=place.endpoint_url or None,
        config=config,
    )
    watch(client)
    return client
