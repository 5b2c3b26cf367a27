"""What an orchestrator on another machine needs to reach the same bucket: the credentials themselves, not a profile."""

from __future__ import annotations

import os

from envoi_trace_core.errors import UsageError
from envoi_trace_core.specs import Carried

SETTINGS = ("AWS_S3_BUCKET", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")


def carried() -> Carried:
    """Settings of the environment, and the credentials that boto3 finds here, as variables.

    Raises:
        UsageError: boto3 can't get credentials, or its settings are broken.
    """
    import boto3
    from botocore.exceptions import BotoCoreError

    variables = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    try:
        session = boto3.session.Session()
        found = session.get_credentials()
        credentials = found.get_frozen_credentials() if found is not None else None
    except BotoCoreError as error:
        raise UsageError(
            f"no AWS credentials can be got: {error}", mend="aws sts get-caller-identity shows why"
        ) from error
    if session.region_name and not variables.keys() & {"AWS_REGION", "AWS_DEFAULT_REGION"}:
        variables["AWS_DEFAULT_REGION"] = session.region_name
    if credentials is None or not credentials.access_key or not credentials.secret_key:
        return Carried(variables=variables)
    variables["AWS_ACCESS_KEY_ID"] = credentials.access_key
    variables["AWS_SECRET_ACCESS_KEY"] = credentials.secret_key
    if not credentials.token:
        return Carried(variables=variables)
    variables["AWS_SESSION_TOKEN"] = credentials.token
    note = "these AWS credentials are temporary, and can't be renewed elsewhere: when they end, the run can't store"
    return Carried(variables=variables, notes=(note,))
