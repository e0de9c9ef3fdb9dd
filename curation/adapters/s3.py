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
from curation.object_store import sha256_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MULTIPART_BYTES = 64 << 20
"""Files above this go up in parts of this size, so that a broken connection repeats one part and not ten gigabytes."""

TRANSFER = TransferConfig(
    multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4
)
WEEK = 7 * 24 * 3600  # seconds; S3 signs no address for longer


class S3Store:
    """Objects under `prefix/ab/cdef...` of a bucket; safe under concurrent writers, durable when `put` returns.

    Credentials and region come by boto3's own chain (environment, profile, instance). `endpoint` is the address of a
    server other than Amazon's.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None) -> None:
        if not bucket:
            raise Refused(
                "the address of an object store in S3 names no bucket", "write s3://bucket/prefix"
            )
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.opening = (
            "curation.adapters.s3:S3Store",
            bucket,
            prefix,
            endpoint,
        )  # for other processes
        # A session of its own: boto3's shared one keeps the first credentials it ever saw, and is no friend of threads.
        self.client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                signature_version="s3v4",
                connect_timeout=5,
                read_timeout=60,
                retries={"max_attempts": 4, "mode": "standard"},
                max_pool_connections=16,
                # Most servers other than Amazon's know only paths, and not every one the newer trailing checksums.
                s3={"addressing_style": "path"} if endpoint else {},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def put(self, source: bytes | Path) -> str:
        """Store bytes or a file under their sha256. A second put of the same bytes sends nothing."""
        name = sha256_of(source)
        if self.has(name):
            return name
        with self._translated(name):
            if isinstance(source, bytes):
                self._put_once(self._key(name), source)
            else:
                # A file that changes while it is sent would be found by `get`, like any other corruption.
                self.client.upload_file(str(source), self.bucket, self._key(name), Config=TRANSFER)
        return name

    def get(self, sha256: str) -> bytes:
        """The bytes of that name, hashed again here: no server can be trusted to (ARCHITECTURE.md, Objects)."""
        with self._translated(sha256):
            data: bytes = self.client.get_object(Bucket=self.bucket, Key=self._key(sha256))[
                "Body"
            ].read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(
                f"object {sha256} does not have the bytes it is named by",
                "restore it from a backup",
            )
        return data

    def has(self, sha256: str) -> bool:
        """Whether the bucket has an object of that name."""
        try:
            with self._translated(sha256):
                self.client.head_object(Bucket=self.bucket, Key=self._key(sha256))
        except NotFound:
            if not _is_sha256(sha256):
                raise
            return False
        return True

    def address(self, sha256: str, seconds: int) -> str | None:
        """A presigned URL that answers GET for so long, at most a week; whether the object is there is not asked."""
        where = {"Bucket": self.bucket, "Key": self._key(sha256)}
        with self._translated(sha256):
            return self.client.generate_presigned_url(
                "get_object", Params=where, ExpiresIn=min(seconds, WEEK)
            )

    def _put_once(self, key: str, data: bytes) -> None:
        try:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            code = _code(error)
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                return  # somebody stored the same bytes a moment ago
            if code != "NotImplemented":
                raise
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=data
            )  # same bytes, same name: harmless

    def _key(self, sha256: str) -> str:
        if not _is_sha256(sha256):
            raise NotFound(f"{sha256[:80]!r} is no sha256 in lower-case hex")
        return "/".join(part for part in (self.prefix, sha256[:2], sha256[2:]) if part)

    @contextmanager
    def _translated(self, sha256: str) -> Iterator[None]:
        """Every error of the vendor as one of ours."""
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in ("NoSuchKey", "404", "NotFound"):
                raise NotFound(
                    f"no object {sha256}", "run 'layerloop doctor' to list what is missing"
                ) from error
            if code == "NoSuchBucket":
                raise NotFound(
                    f"there is no bucket {self.bucket!r}", "make it, or correct LAYERLOOP_OBJECTS"
                ) from error
            raise LayerloopError(
                f"the object store refuses: {error}",
                f"may these credentials read and write in {self.bucket!r}?",
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            raise Unreachable(
                f"the object store does not answer: {error}",
                "check LAYERLOOP_OBJECTS_ENDPOINT and the credentials",
            ) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_sha256(name: str) -> bool:
    return len(name) == 64 and all(digit in "0123456789abcdef" for digit in name)
