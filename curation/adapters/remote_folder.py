"""Object stores of other people, read-only: S3, Google Cloud Storage, Azure and web servers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from curation.errors import Corrupt, LayerloopError, NotFound, Refused, Unreachable
from curation.object_store import NOTICES, is_sha256, taken_down

if TYPE_CHECKING:
    from obstore.store import ObjectStore as ObstoreStore

SCHEMES = frozenset({"s3", "s3a", "gs", "az", "azure", "abfs", "abfss"})
"""Schemes of addresses that obstore opens."""


class RemoteFolder:
    """Objects under `prefix/ab/cdef...` of a bucket, to read; several threads may use it.

    Credentials are those of the environment (AWS_*, GOOGLE_*, AZURE_*); for S3 also those that
    boto3 finds, where it is installed.

    Args:
        url: Address of bucket and prefix, as s3://bucket/prefix, gs://bucket or
            az://account/container.
        endpoint: URL of an S3 server other than Amazon's.
    """

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        self.url = url
        self.store = open_bucket(url, endpoint)

    def get(self, sha256: str) -> bytes:
        """Return the bytes with that sha256, after checking it.

        Args:
            sha256: The object's name, 64 hex digits.

        Raises:
            NotFound: There is no such object.
            TakenDown: The snapshot of this id lost samples to a takedown.
            Corrupt: The stored bytes have another sha256.
            Unreachable: The server does not answer, or refuses.
        """
        data = self.get_unchecked(sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(
                f"the bytes of object {sha256} in {self.url} do not match its sha256",
                "ask its owner to restore it",
            )
        return data

    def get_unchecked(self, sha256: str) -> bytes:
        """Return the bytes that are stored under a sha256, to examine a damaged object.

        Args:
            sha256: The object's name, 64 hex digits.

        Raises:
            NotFound: There is no such object.
            Unreachable: The server does not answer, or refuses.
        """
        if not is_sha256(sha256):
            raise NotFound(f"{sha256[:80]!r} is not a sha256 in lower-case hex")
        found = self._read(f"{sha256[:2]}/{sha256[2:]}")
        if found is not None:
            return found
        notice = self._read(f"{NOTICES}/{sha256}")
        if notice is not None:
            raise taken_down(sha256, notice)
        raise NotFound(f"there is no object {sha256} in {self.url}")

    def _read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is none. Raises Unreachable."""
        from obstore import exceptions, get

        try:
            return bytes(get(self.store, path).bytes())
        except (FileNotFoundError, exceptions.NotFoundError):
            return None
        except (exceptions.BaseError, OSError) as error:
            raise Unreachable(
                f"{self.url} cannot be read: {_first_line(error)}",
                "check the address, the credentials and the endpoint",
            ) from error

    def list_names(self, beginning: str) -> list[str]:
        """Return the names of objects that begin with at least two digits.

        Args:
            beginning: The first digits of the names.

        Raises:
            Unreachable: The server does not answer, or refuses.
        """
        from obstore import exceptions, list_with_delimiter

        try:
            listed = list_with_delimiter(self.store, f"{beginning[:2]}/")
        except (exceptions.BaseError, OSError) as error:
            raise Unreachable(
                f"{self.url} cannot be listed: {_first_line(error)}", "give the full id"
            ) from error
        names = ("".join(one["path"].split("/")[-2:]) for one in listed["objects"])
        return [name for name in names if name.startswith(beginning) and is_sha256(name)]


def open_bucket(url: str, endpoint: str | None = None) -> ObstoreStore:
    """Open a bucket with a prefix.

    Args:
        url: Address, as s3://bucket/prefix.
        endpoint: URL of an S3 server other than Amazon's.

    Raises:
        Refused: The address is invalid.
    """
    try:
        from obstore import exceptions
        from obstore.store import from_url
    except ModuleNotFoundError as error:
        raise LayerloopError(f"{error.name} is not installed", "pip install obstore") from error
    options: dict[str, Any] = {}
    if urlparse(url).scheme in ("s3", "s3a"):
        options = _s3_options(endpoint)
    try:
        return from_url(url, **options)
    except (exceptions.BaseError, ValueError) as error:
        hint = "write s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix"
        raise Refused(f"{url!r} cannot be opened: {_first_line(error)}", hint) from error


def _s3_options(endpoint: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if endpoint:
        options["endpoint"] = endpoint
        options["virtual_hosted_style_request"] = False
        options["client_options"] = {"allow_http": endpoint.startswith("http:")}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        return options
    # Profiles and instance roles, which obstore alone does not read.
    session = boto3.session.Session()
    if session.get_credentials() is not None:
        options["credential_provider"] = Boto3CredentialProvider(session)
    options["region"] = session.region_name or "us-east-1"
    return options


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
