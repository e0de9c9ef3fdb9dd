"""Object store in an S3 bucket."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from urllib3.exceptions import HTTPError

from curation.adapters.s3_presign import presign_get
from curation.adapters.s3_removal import (
    REFRESH_SECONDS,
    ShardRemoval,
    removing_from,
    server_time,
    wait_for_removals,
)
from curation.adapters.s3_sizes import find_sizes
from curation.errors import Corrupt, NotFound, Refused, Unreachable
from curation.object_store import (
    MISSING_HINT,
    NOTICES,
    check_file,
    compute_sha256,
    is_sha256,
    taken_down,
)
from curation.store_inventory import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_COPIED_BYTES = 5 << 30
"""Largest object that S3 copies in one request; a larger one is uploaded again."""
MULTIPART_BYTES = 64 << 20
"""Larger files are uploaded in parts of this size, so that only a failed part is repeated."""

TRANSFER = TransferConfig(
    multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4
)
READ_ATTEMPTS = 4
"""Times that an object is read if the bytes are not those that its name promises."""


class S3Store:
    """Objects under `prefix/ab/cdef...` of a bucket, durable when `put` returns.

    Concurrent writers are safe. Credentials and region are found by boto3 (environment, profile,
    instance).

    Args:
        bucket: Name of the bucket.
        prefix: Prefix of all keys.
        endpoint: URL of a server other than Amazon's.
        public_endpoint: URL of the server as browsers reach it; None if they cannot.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        endpoint: str | None = None,
        public_endpoint: str | None = None,
    ) -> None:
        if not bucket:
            raise Refused(
                "the URL of the S3 object store has no bucket", "write s3://bucket/prefix"
            )
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        # The class and its arguments, with which other processes open the same store.
        self.opening = ("curation.adapters.s3:S3Store", bucket, prefix, endpoint)
        self.public_endpoint = public_endpoint
        # boto3's shared session caches the first credentials and is not thread-safe.
        self._session = boto3.session.Session()
        self.client: S3Client = self._session.client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                signature_version="s3v4",
                connect_timeout=5,
                read_timeout=60,
                retries={"max_attempts": 4, "mode": "standard"},
                max_pool_connections=32,
                # Most other servers support only path addressing, and some lack trailing checksums.
                s3={"addressing_style": "path"} if endpoint else {},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def put(self, source: bytes | Path) -> str:
        """Store bytes or a file under their sha256; a second put of the same bytes sends nothing.

        The time of an older object is renewed, so that the garbage collector spares it.

        Args:
            source: The bytes, or the path of a file.

        Returns:
            The sha256 in hex.
        """
        name = compute_sha256(source)
        with self._translated(name):
            if self._keep_existing(name):
                return name
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
            Corrupt: The stored bytes have another sha256, at every try.
            Unreachable: The server fails, refuses or does not answer.
        """
        # Not every server verifies what it stores, and a proxy may damage one answer of many.
        for attempt in range(READ_ATTEMPTS):
            try:
                with self._translated(sha256):
                    found = self.client.get_object(Bucket=self.bucket, Key=self._key(sha256))
                    data: bytes = found["Body"].read()
            except NotFound:
                self._raise_notice(sha256)
                raise
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
            time.sleep(0.05 * 2**attempt)
        raise Corrupt(
            f"the bytes of object {sha256} do not match its sha256",
            "restore it from a backup",
        )

    def has(self, sha256: str) -> bool:
        """Return whether the bucket has an object of that name."""
        with self._translated(sha256):
            return self._size(sha256) is not None

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Return the sizes in bytes of those objects that are stored."""
        with self._translated(self.bucket):
            return find_sizes(
                names, lambda shard: self._list(self._prefixed(f"{shard}/"), {}), self._size
            )

    def address(self, sha256: str, media_type: str, signed_at: int, seconds: int) -> str | None:
        """Return a presigned URL at the public endpoint, also of a missing object."""
        key = self._key(sha256)
        if self.public_endpoint is None:
            return None
        with self._translated(sha256):
            credentials = self._session.get_credentials()
            if credentials is None:
                raise NoCredentialsError
            return presign_get(
                f"{self.public_endpoint}/{self.bucket}/{key}",
                credentials.get_frozen_credentials(),
                self.client.meta.region_name,
                signed_at,
                seconds,
                media_type,
            )

    def list_objects(self, after: str = "") -> Iterator[StoredObject]:
        """Yield the objects with a name greater than `after`, in the order of their names."""
        start = {"StartAfter": self._key(after)} if is_sha256(after) else {}
        yield from self._list(self._prefixed(""), start)

    def read_to(self, sha256: str, target: Path) -> None:
        """Write an object to a file, after checking it. Raises NotFound, Corrupt."""
        with self._translated(sha256):
            self.client.download_file(self.bucket, self._key(sha256), str(target), Config=TRANSFER)
        check_file(target, sha256)

    def remove(self, names: Collection[str], before: datetime) -> list[str]:
        """Remove objects that nobody has put since `before`, and return the removed names.

        Args:
            names: Names of the objects.
            before: Objects that were put at this time or later are kept. A repeated put renews an
                object's time only if it is REFRESH_SECONDS old.

        Raises:
            Conflict: Another process removes objects.
        """
        removed: list[str] = []
        for shard, group in groupby(sorted(names), key=lambda name: name[:2]):
            wanted = set(group)
            with self._translated(shard), self._removing(shard) as removal:
                # Listed again under the marker: what was put meanwhile is newer now.
                old = [
                    found.sha256
                    for found in self._list(self._prefixed(f"{shard}/"), {})
                    if found.sha256 in wanted and found.modified_at < before
                ]
                keys = {self._key(name): name for name in old}
                removed += [keys[key] for key in removal.remove(list(keys))]
        return removed

    def remove_incomplete(self, before: datetime) -> int:
        """Abort multipart uploads that began before that time, and return their number."""
        aborted = 0
        with self._translated(self.bucket):
            pages = self.client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefixed("")):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < before:
                        self.client.abort_multipart_upload(
                            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        aborted += 1
        return aborted

    def write_notice(self, sha256: str, notice: bytes) -> None:
        """Keep a notice about an object that is removed for ever, which `get` then reports."""
        self.put_file(self._prefixed(f"{NOTICES}/{sha256}"), notice)

    def _raise_notice(self, sha256: str) -> None:
        with suppress(NotFound):
            raise taken_down(sha256, self.get_file(self._prefixed(f"{NOTICES}/{sha256}")))

    def has_bucket(self) -> bool:
        """Return whether the bucket exists."""
        with self._translated(self.bucket):
            try:
                self.client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if _code(error) not in ("404", "NoSuchBucket", "NotFound"):
                    raise
                return False
        return True

    def create_bucket(self) -> bool:
        """Create the bucket if it does not exist; return whether it was created."""
        if self.has_bucket():
            return False
        with self._translated(self.bucket):
            self.client.create_bucket(Bucket=self.bucket)
        return True

    def put_file(self, key: str, data: bytes) -> None:
        """Write a file by its key, beside the objects."""
        with self._translated(key):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def get_file(self, key: str) -> bytes:
        """Return the content of a file by its key. Raises NotFound."""
        with self._translated(key):
            data: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data

    def list_files(self, prefix: str) -> list[str]:
        """Return the keys of files with a prefix, without the prefix."""
        pages = self.client.get_paginator("list_objects_v2")
        with self._translated(prefix):
            return [
                item["Key"].removeprefix(prefix)
                for page in pages.paginate(Bucket=self.bucket, Prefix=prefix)
                for item in page.get("Contents", [])
            ]

    def read_clock(self) -> datetime:
        """Return the server's time, in whole seconds."""
        with self._translated(""):
            return server_time(self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1))

    def _keep_existing(self, name: str) -> bool:
        """Return whether the object is stored, after renewing its time if it is old."""
        bucket, key = self.bucket, self._key(name)
        try:
            found = self.client.head_object(Bucket=bucket, Key=key)
            age = (server_time(found) - found["LastModified"]).total_seconds()
            if age < REFRESH_SECONDS:
                return True
            if found["ContentLength"] > MAX_COPIED_BYTES:
                return False
            # A copy of an object onto itself renews its time; the bytes stay on the server.
            self.client.copy_object(
                Bucket=bucket,
                Key=key,
                CopySource={"Bucket": bucket, "Key": key},
                MetadataDirective="REPLACE",
            )
            wait_for_removals(self.client, bucket, self._markers(name[:2]))
            self.client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404", "NotFound"):
                return False
            raise
        return True

    def _removing(self, shard: str) -> AbstractContextManager[ShardRemoval]:
        return removing_from(self.client, self.bucket, self._markers(shard))

    def _markers(self, shard: str) -> str:
        return self._prefixed(f".removing/{shard}/")

    def _prefixed(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _list(self, prefix: str, start: dict[str, Any]) -> Iterator[StoredObject]:
        pages = self.client.get_paginator("list_objects_v2")
        with self._translated(self.bucket):
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, **start):
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._prefixed(""))
                    name = key.replace("/", "", 1)
                    # Markers and foreign objects are no objects of this store.
                    if is_sha256(name) and key[2:3] == "/":
                        yield StoredObject(name, item["Size"], item["LastModified"])

    def _size(self, sha256: str) -> int | None:
        try:
            found = self.client.head_object(Bucket=self.bucket, Key=self._key(sha256))
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404", "NotFound"):
                return None
            raise
        return found["ContentLength"]

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
        if not is_sha256(sha256):
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
                raise NotFound(f"no object {sha256}", MISSING_HINT) from error
            if code == "NoSuchBucket":
                raise Unreachable(
                    f"there is no bucket {self.bucket!r}", "create it, or correct LAYERLOOP_STORAGE"
                ) from error
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if status >= 500 or status == 429:
                raise Unreachable(
                    f"the object store fails: {error}",
                    "it is tried again; see the store's own logs if this lasts",
                ) from error
            raise Unreachable(
                f"the object store refuses: {error}",
                f"check that these credentials may read and write in {self.bucket!r}",
            ) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise Unreachable(
                f"the object store needs credentials: {error}",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
            ) from error
        except (BotoCoreError, Boto3Error, OSError, HTTPError) as error:
            raise Unreachable(
                f"the object store does not answer: {error}",
                "check LAYERLOOP_STORAGE_ENDPOINT and the network; it is tried again",
            ) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
