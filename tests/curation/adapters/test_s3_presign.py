"""Presigned URLs: equal to those of boto3, and equal to each other within a window."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.client import Config
from botocore.credentials import ReadOnlyCredentials

from curation.adapters.s3_presign import presign_get

BUCKET_URL = "https://objects.example.org:8443/a-bucket"


def boto3_url(key: str, credentials: ReadOnlyCredentials, region: str) -> str:
    client = boto3.client(
        "s3",
        endpoint_url="https://objects.example.org:8443",
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        region_name=region,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    asked = {
        "ResponseContentType": "image/webp",
        "ResponseCacheControl": "private, max-age=900, immutable",
    }
    return client.generate_presigned_url(
        "get_object", Params={"Bucket": "a-bucket", "Key": key} | asked, ExpiresIn=900
    )


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
@pytest.mark.parametrize("key", ["ab/cdef", "some/prefix/ab/cdef", "with space+plus/~ä/ab"])
def test_a_url_is_the_one_that_boto3_signs_at_that_time(key, region, token):
    credentials = ReadOnlyCredentials("AKIDEXAMPLE", "secret/with+signs", token)
    theirs = urlsplit(boto3_url(key, credentials, region))
    query = parse_qs(theirs.query)
    stamp = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signed_at = int(stamp.timestamp())
    ours = urlsplit(
        presign_get(f"{BUCKET_URL}/{key}", credentials, region, signed_at, 900, "image/webp")
    )
    assert (ours.netloc, ours.path, parse_qs(ours.query)) == (theirs.netloc, theirs.path, query)


def test_without_a_region_the_default_one_is_signed():
    credentials = ReadOnlyCredentials("AKIDEXAMPLE", "secret", None)
    urls = {
        presign_get(f"{BUCKET_URL}/ab/cd", credentials, region, 0, 900, "image/webp")
        for region in (None, "aws-global", "us-east-1")
    }
    assert len(urls) == 1
