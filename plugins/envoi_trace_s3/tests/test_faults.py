"""What networks and busy servers do, and what the user reads when the storage can't be used."""

from __future__ import annotations

import base64
import hashlib
import time

import anyio
import pytest
from envoi_trace_s3 import upload
from envoi_trace_s3.credentials import known_secrets
from envoi_trace_s3.opening import open_storage
from envoi_trace_s3.options import S3Options
from s3_proxy import Fault, Proxy

from envoi_trace_core.errors import ConditionFailedError, EnvoiTraceError, StorageError, UsageError
from envoi_trace_core.protocols import Absent, AtVersion, Storage

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
LARGE = bytes(range(256)) * 4096 * 17
SLOW_DOWN = Fault("answer", 503, "SlowDown")


@pytest.fixture
async def storage(bucket: str, proxy: Proxy):
    made = await open_storage(S3Options(bucket=bucket, endpoint_url=proxy.url))
    yield made
    await made.close()


@pytest.mark.parametrize(
    "fault",
    [SLOW_DOWN, Fault("answer", 500), Fault("reset"), Fault("lost"), Fault("delay", delay_s=0.3)],
    ids=["slow down", "500", "reset", "lost answer", "delay"],
)
@pytest.mark.parametrize("is_new", [True, False], ids=["absent", "at version"])
async def test_a_conditional_put_survives(storage: Storage, proxy: Proxy, fault: Fault, is_new: bool) -> None:
    condition: Absent | AtVersion = Absent() if is_new else AtVersion(await storage.put("a", b"old"))
    proxy.once(fault, method="PUT")
    version = await storage.put("a", b"new", condition=condition)
    info = await storage.stat("a")
    assert info is not None
    assert (info.version, await storage.get("a")) == (version, b"new")


async def test_equal_bytes_of_another_writer_are_no_win(storage: Storage, proxy: Proxy, client, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"same")
    proxy.once(Fault("reset"), method="PUT")
    with pytest.raises(ConditionFailedError):
        await storage.put("a", b"same", condition=Absent())


async def test_a_conflict_is_tried_again_and_then_a_lost_condition(storage: Storage, proxy: Proxy) -> None:
    conflict = Fault("answer", 409, "ConditionalRequestConflict")
    proxy.once(conflict, method="PUT")
    await storage.put("a", b"1", condition=Absent())
    proxy.once(*[conflict] * 9, method="PUT")
    with pytest.raises(ConditionFailedError):
        await storage.put("b", b"1", condition=Absent())


async def test_an_answer_that_is_cut_is_read_again(storage: Storage, proxy: Proxy) -> None:
    await storage.put("a", b"x" * 100_000)
    proxy.once(Fault("cut", answer_bytes=50_000), method="GET")
    assert await storage.get("a") == b"x" * 100_000


async def test_uploads_carry_checksums(storage: Storage, proxy: Proxy) -> None:
    await storage.put("a", b"whole")
    await storage.put("b", LARGE)
    puts = [request for request in proxy.requests if request.method == "PUT"]
    assert len(puts) == 4
    for request in puts:
        expected = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        assert request.headers["x-amz-checksum-sha256"] == expected


async def test_a_large_put_holds_its_condition(storage: Storage, client, bucket: str) -> None:
    version = await storage.put("a", LARGE, condition=Absent())
    with pytest.raises(ConditionFailedError):
        await storage.put("a", LARGE, condition=Absent())
    await storage.put("a", LARGE[1:], condition=AtVersion(version))
    with pytest.raises(ConditionFailedError):
        await storage.put("a", LARGE, condition=AtVersion(version))
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


async def test_a_large_put_that_fails_leaves_no_pieces(storage: Storage, proxy: Proxy, client, bucket: str) -> None:
    proxy.once(Fault("answer", 403, "AccessDenied"), method="PUT", part="partNumber=2")
    with pytest.raises(StorageError, match="access denied"):
        await storage.put("a", LARGE)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert await storage.stat("a") is None


async def test_a_large_put_that_is_cancelled_leaves_no_pieces(
    storage: Storage, proxy: Proxy, client, bucket: str
) -> None:
    with anyio.CancelScope() as scope:

        def cancel(request):
            if "partNumber=2" in request.target:
                scope.cancel()

        proxy.decide = cancel
        await storage.put("a", LARGE)
    assert scope.cancelled_caught
    assert any(request.method == "DELETE" for request in proxy.requests)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchBucket", "there is no bucket"),
        (403, "AccessDenied", "access denied"),
        (400, "ExpiredToken", "session token has expired"),
        (403, "RequestTimeTooSkewed", "clock differs"),
        (400, "AuthorizationHeaderMalformed", "is not in the region us-east-1; it is in eu-west-3"),
        (403, "InvalidAccessKeyId", "does not know this access key id"),
        (403, "SignatureDoesNotMatch", "refuses the secret access key"),
    ],
)
async def test_says_why_it_can_not_be_opened(proxy: Proxy, status: int, code: str, expected: str) -> None:
    proxy.decide = lambda _request: Fault("answer", status, code)
    with pytest.raises(UsageError, match=expected) as caught:
        await open_storage(S3Options(bucket="some-bucket", endpoint_url=proxy.url))
    assert caught.value.mend
    assert "\n" not in caught.value.message + caught.value.mend


async def test_no_bucket_is_said() -> None:
    with pytest.raises(UsageError, match="needs a bucket") as caught:
        await open_storage(S3Options())
    assert "AWS_S3_BUCKET" in str(caught.value.mend)


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "closed port"])
async def test_an_unreachable_server_is_said_in_time(proxy: Proxy, is_silent: bool) -> None:
    proxy.decide = lambda _request: Fault("delay", delay_s=30)
    url = proxy.url if is_silent else "http://127.0.0.1:1"
    began_at = time.monotonic()
    with pytest.raises(EnvoiTraceError) as caught:
        await open_storage(S3Options(bucket="some-bucket", endpoint_url=url))
    assert caught.value.retryable
    assert caught.value.mend
    assert time.monotonic() - began_at < 16


async def test_secrets_of_environment_and_files_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_secret_access_key = from%file\n[dev]\naws_session_token=token\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert set(known_secrets().values()) == {"canary-secret-access-key", "from%file", "token"}


def test_pieces_are_smaller_than_what_is_cut() -> None:
    assert upload.PART_BYTES * 2 <= upload.MULTIPART_FROM_BYTES
