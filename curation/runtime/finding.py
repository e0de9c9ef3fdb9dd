"""A finding of the doctor, and addresses in it without credentials."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Finding:
    """The result of one check: the part, whether it is well, a message, and a hint if it is not."""

    part: str
    ok: bool
    message: str
    hint: str = ""


def without_credentials(address: str) -> str:
    """Return an address without user, password and parameters, any of which may be secret."""
    if "://" not in address:
        return address.rpartition("@")[2]
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:  # for example a slash in a password
        return "an address that cannot be read"
    if "@" in parts.path:
        return "an address that cannot be read"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"
