"""Presigned URLs of S3 (Signature Version 4) with a given signing time.

boto3 signs with the present time, so that each URL would differ and no browser would find an image
in its cache.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, urlsplit

from botocore.credentials import ReadOnlyCredentials

ALGORITHM = "AWS4-HMAC-SHA256"
DEFAULT_REGION = "us-east-1"


def presign_get(
    url: str,
    credentials: ReadOnlyCredentials,
    region: str | None,
    signed_at: int,
    seconds: int,
    media_type: str,
) -> str:
    """Return the presigned URL of an object; equal arguments give equal URLs.

    The response may be kept by the browser, but not by proxies, for as long as the URL is valid.

    Args:
        url: URL of the object, in path style.
        credentials: Credentials that may read the object.
        region: Region of the bucket.
        signed_at: Unix time of the signature, from which the URL is valid.
        seconds: How long the URL is valid, at most a week.
        media_type: Content type of the response.
    """
    split = urlsplit(url)
    path = quote(split.path, safe="/-_.~")
    stamp = datetime.fromtimestamp(signed_at, UTC).strftime("%Y%m%dT%H%M%SZ")
    named = region if region and region != "aws-global" else DEFAULT_REGION
    scope = f"{stamp[:8]}/{named}/s3/aws4_request"
    query = {
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
        "response-cache-control": f"private, max-age={seconds}, immutable",
        "response-content-type": media_type,
    }
    if credentials.token:
        query["X-Amz-Security-Token"] = credentials.token
    # The canonical request has the parameters sorted and encoded.
    encoded = "&".join(f"{key}={quote(query[key], safe='-_.~')}" for key in sorted(query))
    request = f"GET\n{path}\n{encoded}\nhost:{split.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = _signing_key(credentials.secret_key, stamp[:8], named)
    signature = _hmac(key, f"{ALGORITHM}\n{stamp}\n{scope}\n{digest}").hex()
    return f"{split.scheme}://{split.netloc}{path}?{encoded}&X-Amz-Signature={signature}"


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = _hmac(f"AWS4{secret}".encode(), day)
    for part in (region, "s3", "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), hashlib.sha256)
