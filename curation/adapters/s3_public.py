"""What browsers need at an S3 server: a CORS rule of the bucket, and answers to presigned URLs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from curation.errors import Unreachable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CORSRuleOutputTypeDef

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class BrowserAnswer:
    """The answer to a GET of a page of some origin.

    Attributes:
        status: HTTP status.
        body: The bytes.
        media_type: The content type.
        allowed_origin: Origin that may read the answer; empty for none.
        written_at: When the object was written, as the server tells it; empty if it does not.
    """

    status: int
    body: bytes
    media_type: str
    allowed_origin: str
    written_at: str


def get_as_browser(url: str, origin: str) -> BrowserAnswer:
    """Return what a page of an origin gets from a URL.

    Args:
        url: The URL.
        origin: Scheme, host and port of the page.

    Raises:
        Unreachable: There is no answer.
    """
    try:
        found = httpx.get(url, headers={"origin": origin}, timeout=TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        raise Unreachable(
            f"the store's public endpoint does not answer: {error}",
            "check LAYERLOOP_STORAGE_PUBLIC_ENDPOINT; this machine must reach it too",
        ) from error
    return BrowserAnswer(
        found.status_code,
        found.content,
        found.headers.get("content-type", ""),
        found.headers.get("access-control-allow-origin", ""),
        found.headers.get("last-modified", ""),
    )


def allow_origin(client: S3Client, bucket: str, origin: str) -> bool:
    """Let pages of an origin read the bucket's objects; other rules of the bucket stay.

    Args:
        client: The client.
        bucket: The bucket.
        origin: Scheme, host and port of the pages.

    Returns:
        Whether a rule was added.

    Raises:
        Unreachable: The server does not answer, or these credentials may not change the rules.
    """
    own: CORSRuleOutputTypeDef = {
        "AllowedOrigins": [origin],
        "AllowedMethods": ["GET"],
        "MaxAgeSeconds": 3_600,
    }
    try:
        rules = _cors_rules(client, bucket)
        for rule in rules:
            if origin in rule["AllowedOrigins"] and "GET" in rule["AllowedMethods"]:
                return False
        client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [*rules, own]})
    except (BotoCoreError, ClientError) as error:
        raise Unreachable(
            f"the CORS rules of {bucket!r} cannot be set: {error}",
            f"allow GET from {origin} in the bucket's CORS rules, or give the API's key the right",
        ) from error
    return True


def _cors_rules(client: S3Client, bucket: str) -> list[CORSRuleOutputTypeDef]:
    try:
        return client.get_bucket_cors(Bucket=bucket)["CORSRules"]
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "NoSuchCORSConfiguration":
            raise
        return []
