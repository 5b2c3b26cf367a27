"""The options of the `s3` storage."""

from __future__ import annotations

import attrs

from envoi_trace_core.specs import option


@attrs.frozen(kw_only=True)
class S3Options:
    """What `--storage-opt` sets. Credentials are no options: they come the usual AWS ways."""

    bucket: str = option("", "bucket that holds the artifacts; default: AWS_S3_BUCKET")
    prefix: str = option("", "folder in the bucket below which trajectories/ stands")
    endpoint_url: str = option(
        "", "address of another S3 server (MinIO, R2, ...); default: AWS_ENDPOINT_URL_S3, else AWS"
    )
    region: str = option(
        "", "region of the bucket; default: AWS_REGION, AWS_DEFAULT_REGION or the profile's, else us-east-1"
    )
    sse: str = option("", "encryption at rest: AES256 or aws:kms; default: the bucket's own")
    kms_key: str = option("", "id or ARN of the KMS key; implies sse=aws:kms")
