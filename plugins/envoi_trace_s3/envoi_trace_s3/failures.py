"""What boto3 and S3 report, in this project's errors: what happened, and what mends it."""

from __future__ import annotations

from typing import Any

import attrs

from envoi_trace_core.errors import StorageError
from envoi_trace_s3.operation import OperationCancelledError, OperationTimeoutError

CONDITION_CODES = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
MISSING_CODES = frozenset({"NoSuchKey", "404", "NotFound"})
BODILESS_CODES = frozenset({"400", "403", "301", "307", "Forbidden", "BadRequest"})
"""What a HEAD gives: its answer has no body that says why."""

_REGION = ("PermanentRedirect", "301", "307", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem", "UnauthorizedAccess")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_UNKNOWN_KEY = ("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException")
_RETRYABLE = ("BadDigest", "XAmzContentSHA256Mismatch", "RequestTimeout", "IncompleteBody", "OperationAborted")


@attrs.frozen(kw_only=True)
class Place:
    """A folder of a bucket."""

    bucket: str
    prefix: str
    """Empty, or ends with `/`."""
    region: str
    endpoint_url: str
    """Empty for AWS itself."""

    def uri(self, key: str) -> str:
        """`s3://bucket/prefix/key`."""
        return f"s3://{self.bucket}/{self.prefix}{key}"

    @property
    def server(self) -> str:
        """For a person."""
        return self.endpoint_url or f"AWS ({self.region})"


def error_code(error: Exception) -> str:
    """The code in an answer of S3; empty for any other error."""
    response: Any = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    return str(response.get("Error", {}).get("Code", ""))


def storage_error(error: Exception, doing: str, place: Place) -> StorageError:
    """The error that crosses the protocol. `doing` goes on with "failed": `reading s3://...`."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    if isinstance(error, StorageError):
        return error
    if isinstance(error, ClientError):
        return _answered(error, doing, place)
    if isinstance(error, OperationTimeoutError):
        return StorageError(
            f"{doing} failed: {error}", mend=f"check that {place.server} can be reached", retryable=True
        )
    if isinstance(error, OperationCancelledError):
        return StorageError(f"{doing} was given up", retryable=True)
    if isinstance(error, HTTPError):
        return StorageError(f"{doing} failed: {_line(error)}", mend="try again later", retryable=True)
    if isinstance(error, (BotoCoreError, ValueError)):
        return _unanswered(error, doing, place)
    if isinstance(error, OSError):
        return StorageError(f"{doing} failed: {error.strerror or _line(error)}", retryable=False)
    return StorageError(f"{doing} failed: {type(error).__name__}: {_line(error)}")


def _answered(error: Any, doing: str, place: Place) -> StorageError:
    code = error_code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = _line(error.response.get("Error", {}).get("Message", ""))
    known = _known(error, code, place, doing)
    if known is not None:
        return StorageError(known[0], mend=known[1])
    retryable = status >= 500 or status == 429 or code in _RETRYABLE
    mend = "try again later" if retryable else None
    return StorageError(f"{doing} failed: {place.server} says {code}: {text}", mend=mend, retryable=retryable)


def _known(error: Any, code: str, place: Place, doing: str) -> tuple[str, str] | None:
    if code == "NoSuchBucket":
        return (
            f"there is no bucket {place.bucket!r} at {place.server}",
            f"--storage-opt bucket=NAME, or make it: aws s3 mb s3://{place.bucket}",
        )
    if code in _REGION:
        region = _bucket_region(error)
        other = f"; it is in {region}" if region else ""
        return (
            f"the bucket {place.bucket!r} is not in the region {place.region}{other}",
            f"--storage-opt region={region or 'REGION'}",
        )
    if code in _EXPIRED:
        return (
            f"the AWS session token has expired ({doing})",
            "renew it (aws sso login, or a new AWS_SESSION_TOKEN), then the same command again",
        )
    if code == "RequestTimeTooSkewed":
        return (
            f"this machine's clock differs too much from that of {place.server}",
            "set the clock: sudo timedatectl set-ntp true",
        )
    if code in _UNKNOWN_KEY:
        return f"{place.server} does not know this access key id", "check AWS_ACCESS_KEY_ID, or AWS_PROFILE"
    if code == "SignatureDoesNotMatch":
        return f"{place.server} refuses the secret access key", "check AWS_SECRET_ACCESS_KEY"
    if code == "InvalidToken":
        return f"{place.server} refuses the session token", "check AWS_SESSION_TOKEN, or unset it"
    if code.startswith("KMS."):
        return f"the KMS key can't be used: {code}", "--storage-opt kms_key=KEY, or give the credentials access to it"
    if code in _DENIED:
        return (
            f"access denied: {doing}",
            "give these credentials s3:ListBucket on the bucket, and s3:GetObject, PutObject, DeleteObject on its keys",
        )
    return None


def _bucket_region(error: Any) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region", ""))[:40]


def _unanswered(error: Exception, doing: str, place: Place) -> StorageError:
    from botocore import exceptions as boto

    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return StorageError(
            f"no AWS credentials were found: {_line(error)}",
            mend="export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..., or AWS_PROFILE=NAME",
        )
    if isinstance(error, boto.ProfileNotFound):
        return StorageError(_line(error), mend="export AWS_PROFILE=NAME, or aws configure --profile NAME")
    if isinstance(error, (boto.SSOError, boto.CredentialRetrievalError, boto.TokenRetrievalError)):
        return StorageError(f"the AWS credentials can't be renewed: {_line(error)}", mend="aws sso login")
    if isinstance(error, boto.SSLError):
        return StorageError(
            f"{place.server} shows a certificate that is not trusted: {_line(error)}", mend="export AWS_CA_BUNDLE=FILE"
        )
    if isinstance(error, (boto.ConnectTimeoutError, boto.EndpointConnectionError, boto.ProxyConnectionError)):
        return StorageError(
            f"{place.server} can't be reached: {_line(error)}",
            mend="check the network, and --storage-opt endpoint_url=URL or region=REGION",
            retryable=True,
        )
    if isinstance(error, (boto.HTTPClientError, boto.ResponseStreamingError, boto.IncompleteReadError)):
        return StorageError(f"{doing} failed: {_line(error)}", mend="try again later", retryable=True)
    if isinstance(error, boto.FlexibleChecksumError):
        return StorageError(f"{doing} failed: what arrived is damaged", mend="try again", retryable=True)
    return StorageError(
        f"the s3 storage can't be used as it is set up: {_line(error)}", mend="envoi-trace plugins show s3"
    )


def _line(text: object) -> str:
    return " ".join(str(text).split())[:300]
