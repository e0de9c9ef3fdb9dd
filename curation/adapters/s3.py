"""Object store in an S3 bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from curation.errors import Corrupt, LayerloopError, NotFound, Refused, Unreachable
from curation.object_store import compute_sha256

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MULTIPART_BYTES = 64 << 20
"""Larger files are uploaded in parts of this size, so that only a failed part is repeated."""

TRANSFER = TransferConfig(
    multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4
)
WEEK = 7 * 24 * 3600
"""Longest validity of a presigned URL in S3, in seconds."""


class S3Store:
    """Objects under `prefix/ab/cdef...` of a bucket, durable when `put` returns.

    Concurrent writers are safe. Credentials and region are found by boto3 (environment, profile,
    instance).

    Args:
        bucket: Name of the bucket.
        prefix: Prefix of all keys.
        endpoint: URL of a server other than Amazon's.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None) -> None:
        if not bucket:
            raise Refused(
                "the URL of the S3 object store has no bucket", "write s3://bucket/prefix"
            )
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        # The class and its arguments, with which other processes open the same store.
        self.opening = ("curation.adapters.s3:S3Store", bucket, prefix, endpoint)
        # boto3's shared session caches the first credentials and is not thread-safe.
        self.client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                signature_version="s3v4",
                connect_timeout=5,
                read_timeout=60,
                retries={"max_attempts": 4, "mode": "standard"},
                max_pool_connections=16,
                # Most other servers support only path addressing, and some lack trailing checksums.
                s3={"addressing_style": "path"} if endpoint else {},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def put(self, source: bytes | Path) -> str:
        """Store bytes or a file under their sha256; a second put of the same bytes sends nothing.

        Args:
            source: The bytes, or the path of a file.

        Returns:
            The sha256 in hex.
        """
        name = compute_sha256(source)
        if self.has(name):
            return name
        with self._translated(name):
            if isinstance(source, bytes):
                self._put_once(self._key(name), source)
            else:
                # `get` detects a file that changed during the upload, like any other corruption.
                self.client.upload_file(str(source), self.bucket, self._key(name), Config=TRANSFER)
        return name

    def get(self, sha256: str) -> bytes:
        """Return the bytes with that sha256, after checking it.

        Args:
            sha256: The object's name, 64 hex digits.

        Raises:
            NotFound: There is no such object.
            Corrupt: The stored bytes have another sha256.
        """
        with self._translated(sha256):
            found = self.client.get_object(Bucket=self.bucket, Key=self._key(sha256))
            data: bytes = found["Body"].read()
        # Not every server verifies what it stores (ARCHITECTURE.md, Objects).
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(
                f"the bytes of object {sha256} do not match its sha256",
                "restore it from a backup",
            )
        return data

    def has(self, sha256: str) -> bool:
        """Return whether the bucket has an object of that name."""
        try:
            with self._translated(sha256):
                self.client.head_object(Bucket=self.bucket, Key=self._key(sha256))
        except NotFound:
            if not _is_sha256(sha256):
                raise
            return False
        return True

    def address(self, sha256: str, seconds: int) -> str | None:
        """Return a presigned URL for GET, without a check whether the object exists.

        Args:
            sha256: The object's name, 64 hex digits.
            seconds: How long the URL is valid, at most a week.
        """
        target = {"Bucket": self.bucket, "Key": self._key(sha256)}
        with self._translated(sha256):
            return self.client.generate_presigned_url(
                "get_object", Params=target, ExpiresIn=min(seconds, WEEK)
            )

    def _put_once(self, key: str, data: bytes) -> None:
        try:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            code = _code(error)
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                return  # another writer stored the same bytes meanwhile
            if code != "NotImplemented":
                raise
            # Without conditional writes an object may be replaced, but only by the same bytes.
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def _key(self, sha256: str) -> str:
        if not _is_sha256(sha256):
            raise NotFound(f"{sha256[:80]!r} is not a sha256 in lower-case hex")
        return "/".join(part for part in (self.prefix, sha256[:2], sha256[2:]) if part)

    @contextmanager
    def _translated(self, sha256: str) -> Iterator[None]:
        """Translate errors of boto3 to errors of this package."""
        try:
            yield
        except ClientError as error:
            # The server answered with an error.
            code = _code(error)
            if code in ("NoSuchKey", "404", "NotFound"):
                raise NotFound(
                    f"no object {sha256}", "run 'layerloop doctor' to list what is missing"
                ) from error
            if code == "NoSuchBucket":
                raise NotFound(
                    f"there is no bucket {self.bucket!r}", "create it, or correct LAYERLOOP_STORAGE"
                ) from error
            raise LayerloopError(
                f"the object store refuses: {error}",
                f"check that these credentials may read and write in {self.bucket!r}",
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            # No answer, or no credentials.
            raise Unreachable(
                f"the object store does not answer: {error}",
                "check LAYERLOOP_STORAGE_ENDPOINT and the credentials",
            ) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_sha256(name: str) -> bool:
    return len(name) == 64 and all(digit in "0123456789abcdef" for digit in name)
