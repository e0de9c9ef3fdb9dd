"""The settings of the object store and of the URLs for browsers; a part of all settings."""

from __future__ import annotations

import re

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

EMBEDDED = "embedded"
"""The value of a setting whose part Layerloop runs itself."""

_ORIGIN = re.compile(r"https?://(?:[a-z0-9-]+(?:\.[a-z0-9-]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?/?")


class StorageSettings(BaseSettings):
    """Where objects are, and at which URLs browsers reach the API and the store."""

    storage: str = Field(EMBEDDED, description="s3://bucket/prefix, file:///folder or 'embedded'")
    storage_endpoint: str | None = Field(
        None, description="URL of an S3 server other than Amazon's"
    )
    public_url: str | None = Field(
        None,
        description="URL of the API for browsers and Label Studio; http://host:port when not set",
    )
    storage_public_endpoint: str | None = Field(
        None,
        description=(
            "URL of the S3 server as browsers reach it: they read images there by presigned URLs, "
            "and not through the API; needs LAYERLOOP_PUBLIC_URL"
        ),
    )

    @field_validator("storage_public_endpoint")
    @classmethod
    def _check_public_endpoint(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Accept an origin, which is written into headers, beside an S3 store and a public URL."""
        if value is None:
            return value
        if not _ORIGIN.fullmatch(value):
            raise ValueError("it is not an origin such as https://objects.example.org")
        if not info.data.get("storage", "").startswith("s3://"):
            raise ValueError("LAYERLOOP_STORAGE is no S3 store")
        # The bucket answers pages of this origin alone.
        public_url = info.data.get("public_url")
        if public_url is None:
            raise ValueError("set LAYERLOOP_PUBLIC_URL to the address that people open")
        if public_url.lower().startswith("https:") and value.startswith("http:"):
            raise ValueError("browsers load no http:// images into an https:// page")
        # Browsers send no default port, and the signature covers the host.
        return value.rstrip("/").removesuffix(":443" if value.startswith("https:") else ":80")
