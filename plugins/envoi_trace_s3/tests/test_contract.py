"""What every storage must do, shown for `s3` with a prefix against a real server."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.to_thread
import attrs
import pytest
from botocore.exceptions import ClientError
from envoi_trace_s3.opening import open_storage
from envoi_trace_s3.options import S3Options

from envoi_trace_core.protocols import Storage
from envoi_trace_core.testing.storage_contract import MakeStorage, StorageContract, StorageOracle

PREFIX = "team a/"


@attrs.frozen
class BucketOracle:
    client: object
    bucket: str

    async def read(self, key: str) -> bytes | None:
        try:
            found = self.client.get_object(Bucket=self.bucket, Key=PREFIX + key)
        except ClientError:
            return None
        return found["Body"].read()

    async def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=PREFIX + key, Body=data)

    async def keys(self) -> Sequence[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        unfinished = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return [item["Key"].removeprefix(PREFIX) for item in [*found, *unfinished]]


class TestS3Storage(StorageContract):
    @pytest.fixture
    def make_storage(self, bucket: str, endpoint_url: str) -> MakeStorage:
        async def make() -> Storage:
            return await open_storage(S3Options(bucket=bucket, prefix=PREFIX, endpoint_url=endpoint_url))

        return make

    @pytest.fixture
    def oracle(self, client, bucket: str) -> StorageOracle:
        return BucketOracle(client, bucket)


@pytest.mark.slow
@pytest.mark.anyio
async def test_lists_beyond_a_thousand_keys(client, bucket: str, endpoint_url: str) -> None:
    def fill() -> None:
        for number in range(1500):
            client.put_object(Bucket=bucket, Key=f"trajectories/{number:04}/trace.parquet", Body=b"")

    await anyio.to_thread.run_sync(fill)
    storage = await open_storage(S3Options(bucket=bucket, endpoint_url=endpoint_url))
    found = await storage.list("trajectories/")
    assert [info.key for info in found] == [f"trajectories/{number:04}/trace.parquet" for number in range(1500)]
    await storage.close()
