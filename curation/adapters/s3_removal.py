"""Removal of objects from an S3 bucket, safe against a concurrent put of the same content.

S3 has no conditional delete on the time of an object. Therefore a process that removes objects of a
shard (the first two digits of their names) announces it by a marker object, and a writer that finds
an old object of its content first renews the object's time and then waits for the markers of that
shard. Either the remover sees the new time, or the writer sees that the object is gone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from curation.errors import Conflict

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MARKER_SECONDS = 600
"""Age after which a marker is ignored: the process that wrote it was killed."""
HOLD_SECONDS = MARKER_SECONDS // 2
"""Longest time in which a process removes objects under one marker, in seconds."""
REFRESH_SECONDS = 900
"""Age of an object from which a put of the same content renews its time, in seconds."""
MAX_KEYS = 1_000
"""Most keys in one request to remove objects."""


class ShardRemoval:
    """The right to remove objects of one shard, for HOLD_SECONDS."""

    def __init__(self, client: S3Client, bucket: str, markers: str) -> None:
        self.client, self.bucket = client, bucket
        self.key = f"{markers}{uuid.uuid4().hex}"
        self.ends_at = time.monotonic() + HOLD_SECONDS

    def remove(self, keys: list[str]) -> list[str]:
        """Remove keys while the marker is valid, and return those that were removed."""
        removed: list[str] = []
        for start in range(0, len(keys), MAX_KEYS):
            if time.monotonic() > self.ends_at:
                break
            block = keys[start : start + MAX_KEYS]
            answer = self.client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": key} for key in block], "Quiet": True},
            )
            failed = {error.get("Key") for error in answer.get("Errors", [])}
            removed += [key for key in block if key not in failed]
        return removed


@contextmanager
def removing_from(client: S3Client, bucket: str, markers: str) -> Iterator[ShardRemoval]:
    """Announce that this process removes objects of a shard.

    Args:
        client: Client of the server.
        bucket: Name of the bucket.
        markers: Prefix of the shard's markers, which ends with a slash.

    Raises:
        Conflict: Another process removes objects of this shard.
    """
    removal = ShardRemoval(client, bucket, markers)
    client.put_object(Bucket=bucket, Key=removal.key, Body=b"")
    try:
        # Both of two processes that begin at the same time see the other's marker, and give up.
        if list_markers(client, bucket, markers) - {removal.key}:
            raise Conflict(
                "another process is removing objects", "wait until it has ended, then try again"
            )
        yield removal
    finally:
        client.delete_object(Bucket=bucket, Key=removal.key)


def list_markers(client: S3Client, bucket: str, markers: str) -> set[str]:
    """Return the valid markers of a shard."""
    answer = client.list_objects_v2(Bucket=bucket, Prefix=markers)
    now = server_time(answer)
    return {
        item["Key"]
        for item in answer.get("Contents", [])
        if (now - item["LastModified"]).total_seconds() < MARKER_SECONDS
    }


def wait_for_removals(client: S3Client, bucket: str, markers: str) -> None:
    """Wait until no process removes objects of a shard."""
    wait = 0.05
    while list_markers(client, bucket, markers):
        time.sleep(wait)
        wait = min(2.0, wait * 2)


def server_time(answer: Mapping[str, Any]) -> datetime:
    """Return the server's time of an answer, so that ages do not depend on this machine's clock."""
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
