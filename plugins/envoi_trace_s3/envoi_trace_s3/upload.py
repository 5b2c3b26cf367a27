"""Puts: whole or in pieces, with checksums, and with conditions whose answer may get lost."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from envoi_trace_core.errors import ConditionFailedError, StorageError
from envoi_trace_core.protocols import Absent, AtVersion
from envoi_trace_s3.failures import CONDITION_CODES, MISSING_CODES, Place, error_code
from envoi_trace_s3.operation import Operation

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MULTIPART_FROM_BYTES = 16 * 1024 * 1024
PART_BYTES = 8 * 1024 * 1024
MAX_PARTS = 9000
"""S3 takes 10,000."""
ABORT_BOUND_S = 8.0
NONCE_KEY = "envoi-put"
CONFLICT_RETRIES = 3
CONFLICT_PAUSE_S = 0.3


@attrs.frozen(kw_only=True)
class Upload:
    """One put. Its nonce goes with the object, as metadata.

    When an answer is lost, boto3 sends the put again, and the second one fails on what the first one wrote. The
    nonce then tells an own success from a lost race; equal content would not, since two writers may well write the
    same bytes.
    """

    client: S3Client
    place: Place
    key: str
    data: bytes | Path
    condition: Absent | AtVersion | None
    encryption: dict[str, str]
    operation: Operation
    nonce: str = attrs.field(factory=lambda: secrets.token_hex(16))

    def run(self) -> str:
        """Put it; gives the new ETag.

        Raises:
            ConditionFailedError: The condition does not hold.
            StorageError: The source file can't be read, or changed meanwhile.
            botocore.exceptions.ClientError: S3 refused it.
        """
        if self._size_bytes() < MULTIPART_FROM_BYTES:
            body = self.data if isinstance(self.data, bytes) else _read(self.data)
            return self._conditional(lambda: self._put_whole(body))
        if self.condition is not None:
            self._check_early()
        return self._put_in_pieces()

    @property
    def _target(self) -> dict[str, Any]:
        return {"Bucket": self.place.bucket, "Key": self.place.prefix + self.key}

    @property
    def _conditions(self) -> dict[str, Any]:
        if isinstance(self.condition, Absent):
            return {"IfNoneMatch": "*"}
        return {"IfMatch": self.condition.version} if isinstance(self.condition, AtVersion) else {}

    def _put_whole(self, body: bytes) -> str:
        # The checksum is given as a header: boto3 would send it after the body, which not every server takes.
        done = self.client.put_object(
            **self._target, **self._conditions, **self._attributes(), Body=body, ChecksumSHA256=_checksum(body)
        )
        return done["ETag"]

    def _attributes(self) -> dict[str, Any]:
        return {"Metadata": {NONCE_KEY: self.nonce}, **self.encryption}

    def _put_in_pieces(self) -> str:
        made = self.client.create_multipart_upload(**self._target, **self._attributes(), ChecksumAlgorithm="SHA256")
        upload: dict[str, Any] = {**self._target, "UploadId": made["UploadId"]}
        try:
            pieces: list[CompletedPartTypeDef] = []
            for number, piece in enumerate(self._pieces(), start=1):
                checksum = _checksum(piece)
                done = self.client.upload_part(**upload, PartNumber=number, Body=piece, ChecksumSHA256=checksum)
                pieces.append({"PartNumber": number, "ETag": done["ETag"], "ChecksumSHA256": checksum})
            return self._conditional(lambda: self._complete(upload, pieces))
        except BaseException:
            self._abort(upload)
            raise

    def _complete(self, upload: dict[str, Any], pieces: list[CompletedPartTypeDef]) -> str:
        done = self.client.complete_multipart_upload(**upload, **self._conditions, MultipartUpload={"Parts": pieces})
        return done["ETag"]

    def _abort(self, upload: dict[str, Any]) -> None:
        """Leave no pieces behind: they cost money and no listing shows them. Never hides the first error."""

        def abort(_operation: Operation) -> None:
            self.client.abort_multipart_upload(**upload)

        with contextlib.suppress(Exception):  # a bucket's lifecycle rule is the last resort (see the README)
            Operation(ABORT_BOUND_S).perform(abort)

    def _conditional(self, send: Any) -> str:
        """Send a put, and find out what its refusal means."""
        from botocore.exceptions import ClientError

        first = self.operation.attempts + 1
        for retries_left in reversed(range(CONFLICT_RETRIES)):
            try:
                return str(send())
            except ClientError as error:
                code = error_code(error)
                is_refused = code in CONDITION_CODES or (self.condition is not None and code in MISSING_CODES)
                if not is_refused and code != "NoSuchUpload":
                    raise
                was_sent_before = self.operation.attempts > first
                found = self._find_own() if was_sent_before else None
                if found is not None:
                    return found
                if not is_refused:
                    raise
                if code == "ConditionalRequestConflict" and retries_left:
                    # Another put was under way, perhaps an own one whose answer was lost: the next try tells.
                    self.operation.pause(CONFLICT_PAUSE_S)
                    continue
                raise ConditionFailedError(self._refusal(code)) from error
        raise AssertionError("unreachable")

    def _find_own(self) -> str | None:
        """The ETag of the object when this very put wrote it."""
        head = self._head()
        return head["ETag"] if head is not None and head.get("Metadata", {}).get(NONCE_KEY) == self.nonce else None

    def _check_early(self) -> None:
        """Don't send a large body whose condition is lost already."""
        head = self._head()
        if isinstance(self.condition, Absent) and head is not None:
            raise ConditionFailedError(self._refusal("412"))
        if isinstance(self.condition, AtVersion) and (head is None or head["ETag"] != self.condition.version):
            raise ConditionFailedError(self._refusal("404" if head is None else "412"))

    def _head(self) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self.client.head_object(**self._target)
        except ClientError as error:
            if error_code(error) in MISSING_CODES:
                return None
            raise

    def _refusal(self, code: str) -> str:
        uri = self.place.uri(self.key)
        if isinstance(self.condition, Absent):
            return f"{uri} exists already"
        return f"{uri} was {'removed' if code in MISSING_CODES else 'changed'} by another writer"

    def _size_bytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else _size(self.data)

    def _pieces(self) -> Iterator[bytes]:
        size_bytes = self._size_bytes()
        piece_bytes = max(PART_BYTES, -(-size_bytes // MAX_PARTS))
        if isinstance(self.data, bytes):
            for start in range(0, size_bytes, piece_bytes):
                yield self.data[start : start + piece_bytes]
            return
        sent_bytes = 0
        try:
            with self.data.open("rb") as file:
                while sent_bytes < size_bytes:
                    piece = file.read(min(piece_bytes, size_bytes - sent_bytes))
                    if not piece:
                        raise StorageError(f"{self.data} became shorter while it was uploaded", retryable=True)
                    sent_bytes += len(piece)
                    yield piece
        except OSError as error:
            raise _unreadable(self.data, error) from error


def size_of(data: bytes | Path) -> int:
    """Bytes to be sent; 0 for a file that can't be read, which the upload will report."""
    if isinstance(data, bytes):
        return len(data)
    with contextlib.suppress(OSError):
        return data.stat().st_size
    return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} can't be read: {error.strerror or error}")


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
