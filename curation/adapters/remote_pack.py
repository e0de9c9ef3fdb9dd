"""Packs in a bucket of S3, Google Cloud Storage or Azure: read by ranges, and written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation.adapters.remote_folder import open_bucket
from curation.errors import NotFound, Unreachable

CHUNK = 16 << 20
"""Size in bytes of the parts in which larger files are sent."""


class RemotePackFolder:
    """A pack's folder in a bucket; several threads may use it, and processes copies of it.

    Credentials are those of the environment, as for RemoteFolder.

    Args:
        url: Address of bucket and prefix, as s3://bucket/prefix, gs://bucket or
            az://account/container.
        endpoint: URL of an S3 server other than Amazon's.
    """

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        self.address = url.rstrip("/")
        self.endpoint = endpoint
        self.store = open_bucket(url, endpoint)

    def __reduce__(self) -> tuple[type[RemotePackFolder], tuple[str, str | None]]:
        """Reconnect in the process that gets a copy."""
        return RemotePackFolder, (self.address, self.endpoint)

    def sizes(self, under: str) -> dict[str, int]:
        """Return the size of each file in bytes, by path, in one subfolder and below it."""
        import obstore

        with self._translated(under):
            return {
                str(one["path"]): int(one["size"])
                for page in obstore.list(self.store, prefix=f"{under}/")
                for one in page
            }

    def read(self, path: str) -> bytes:
        """Return a file. Raises NotFound, Unreachable."""
        import obstore

        with self._translated(path):
            return bytes(obstore.get(self.store, path).bytes())

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return a part of a file, which is shorter at its end. Raises NotFound, Unreachable."""
        import obstore

        if not length:
            return b""
        with self._translated(path):
            return bytes(obstore.get_range(self.store, path, start=start, length=length))

    def write(self, path: str, source: bytes | Path) -> None:
        """Write a file as a whole or not at all. Raises Unreachable."""
        import obstore

        with self._translated(path):
            obstore.put(self.store, path, source, chunk_size=CHUNK)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there. Raises Unreachable."""
        import obstore
        from obstore import exceptions

        with self._translated(path):
            try:
                obstore.delete(self.store, path)
            except (FileNotFoundError, exceptions.NotFoundError):
                return

    def remove_incomplete(self) -> None:
        """Do nothing: a bucket shows no file before it is written as a whole."""

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Return the path of a new local file for `write`, which is removed at the end."""
        with tempfile.NamedTemporaryFile(prefix="layerloop-pack-") as file:
            yield Path(file.name)

    @contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Do nothing: a bucket has no locks, and packers look for vanished shards instead."""
        del exclusive
        yield

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            raise NotFound(f"{self.address} has no file {path}") from error
        except (exceptions.BaseError, OSError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise Unreachable(
                f"{self.address} cannot be used: {first}",
                "check the address, the credentials and the endpoint; the same command resumes",
            ) from error
