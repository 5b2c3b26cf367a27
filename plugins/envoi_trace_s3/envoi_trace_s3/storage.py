"""Objects of a bucket as a `Storage`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from envoi_trace_core.errors import KeyMissingError
from envoi_trace_core.protocols import Absent, AtVersion, ObjectInfo
from envoi_trace_s3.failures import BODILESS_CODES, MISSING_CODES, Place, error_code, storage_error
from envoi_trace_s3.operation import Operation, run_bounded
from envoi_trace_s3.upload import Upload, size_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

POOL_SIZE = 16
"""Connections that are kept, and operations that run at once."""
OPERATION_BOUND_S = 60.0
"""For an operation with all its retries, plus what the bytes take at `SLOWEST_BYTES_PER_S`."""
SLOWEST_BYTES_PER_S = 256 * 1024
LIST_BOUND_S = 120.0
READ_ATTEMPTS = 4
READ_PAUSE_S = 0.2


@attrs.frozen
class S3Storage:
    """Objects below a prefix of a bucket. A version is an ETag: equal bytes may have equal versions."""

    client: S3Client
    place: Place
    encryption: dict[str, str]
    limiter: anyio.CapacityLimiter = attrs.field(factory=lambda: anyio.CapacityLimiter(POOL_SIZE))

    def uri(self, key: str) -> str:
        """`s3://bucket/prefix/key`."""
        return self.place.uri(key)

    async def put(self, key: str, data: bytes | Path, *, condition: Absent | AtVersion | None = None) -> str:
        """See `Storage.put`. Large objects go up in pieces; a cancelled put leaves none behind."""
        uploaded_bytes = await anyio.to_thread.run_sync(size_of, data)

        def put(operation: Operation) -> str:
            upload = Upload(
                client=self.client,
                place=self.place,
                key=key,
                data=data,
                condition=condition,
                encryption=self.encryption,
                operation=operation,
            )
            return upload.run()

        bound_s = OPERATION_BOUND_S + uploaded_bytes / SLOWEST_BYTES_PER_S
        return await self._run(put, f"writing {self.uri(key)}", bound_s)

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See `Storage.get`. Only the range is transferred."""
        if length is not None and length <= 0:
            if await self.stat(key) is None:
                raise KeyMissingError(f"there is no {self.uri(key)}")
            return b""
        ranged = start > 0 or length is not None
        extra: dict[str, Any] = {"ChecksumMode": "ENABLED"}
        if ranged:
            # S3's checksums are of whole objects.
            extra = {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"}
        return await self._run(lambda operation: self._get(operation, key, extra), f"reading {self.uri(key)}", None)

    async def stat(self, key: str) -> ObjectInfo | None:
        """See `Storage.stat`."""
        return await self._run(lambda _operation: self._stat(key), f"reading {self.uri(key)}", None)

    async def list(self, prefix: str) -> Sequence[ObjectInfo]:
        """See `Storage.list`."""
        return await self._run(lambda _operation: self._list(prefix), f"listing {self.uri(prefix)}", LIST_BOUND_S)

    async def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        await self._run(lambda _operation: self._delete(key), f"removing {self.uri(key)}", None)

    async def close(self) -> None:
        """Close the pool's connections."""
        self.client.close()

    async def _run[T](self, call: Callable[[Operation], T], doing: str, bound_s: float | None) -> T:
        try:
            return await run_bounded(bound_s or OPERATION_BOUND_S, call, limiter=self.limiter)
        except Exception as error:
            known = storage_error(error, doing, self.place)
            if known is error:
                raise
            raise known from error

    # -- the same, in a thread ----------------------------------------------------------------------

    def _get(self, operation: Operation, key: str, extra: dict[str, Any]) -> bytes:
        from botocore import exceptions as boto
        from urllib3.exceptions import HTTPError

        broken = (
            HTTPError,  # a body that breaks off: boto3 hands it on as it is
            boto.HTTPClientError,
            boto.ResponseStreamingError,
            boto.IncompleteReadError,
            boto.FlexibleChecksumError,
        )
        for attempts_left in reversed(range(READ_ATTEMPTS)):
            try:
                # boto3 tries again until an answer begins, but not when its body breaks.
                found = self.client.get_object(Bucket=self.place.bucket, Key=self.place.prefix + key, **extra)
                with found["Body"] as body:
                    return body.read()
            except broken:
                if not attempts_left:
                    raise
                operation.pause(READ_PAUSE_S)
            except boto.ClientError as error:
                if error_code(error) in MISSING_CODES:
                    raise KeyMissingError(f"there is no {self.uri(key)}") from error
                if error_code(error) in ("InvalidRange", "416"):
                    return b""  # the range begins behind the end
                raise
        raise AssertionError("unreachable")

    def _stat(self, key: str) -> ObjectInfo | None:
        from botocore.exceptions import ClientError

        try:
            head = self.client.head_object(Bucket=self.place.bucket, Key=self.place.prefix + key)
        except ClientError as error:
            code = error_code(error)
            if code in BODILESS_CODES or code in MISSING_CODES:
                self.probe()  # raises the reason, when it is not this object's own
            if code in MISSING_CODES:
                return None
            raise
        return ObjectInfo(
            key=key, size_bytes=head["ContentLength"], version=head["ETag"], modified_at=head["LastModified"]
        )

    def probe(self) -> None:
        """Ask for something that answers with a reason when the bucket can't be used."""
        self.client.list_objects_v2(Bucket=self.place.bucket, Prefix=f"{self.place.prefix}trajectories/", MaxKeys=1)

    def _list(self, prefix: str) -> Sequence[ObjectInfo]:
        cut = len(self.place.prefix)
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.place.bucket, Prefix=self.place.prefix + prefix
        )
        found = [
            ObjectInfo(
                key=item["Key"][cut:], size_bytes=item["Size"], version=item["ETag"], modified_at=item["LastModified"]
            )
            for page in pages
            for item in page.get("Contents", ())
            if len(item["Key"]) > cut
        ]
        return sorted(found, key=lambda info: info.key)

    def _delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.place.bucket, Key=self.place.prefix + key)
