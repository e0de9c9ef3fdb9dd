"""Sender of webhooks: signs a message, and connects only to addresses that may be reached.

Signatures follow the Standard Webhooks specification. A receiver's address comes from an
administrator, but its name is resolved by others: each connection goes to an address that was
checked, so that no name can lead into the private network (server-side request forgery).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpcore
from standardwebhooks import Webhook

from curation.errors import Refused, Unreachable

SECONDS = 20.0
"""Longest time of one delivery, from connecting to the head of the response."""

CONNECT_SECONDS = 5.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

EMBEDDING_NETWORKS: Sequence[Network] = tuple(
    ipaddress.ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")
)
"""Networks whose addresses hold an IPv4 address, possibly a private one: NAT64 and 6to4."""


class ForbiddenAddress(Refused):
    """The receiver's name leads to an address that webhooks may not go to."""


class WebhookSender:
    """A sender of signed messages.

    Args:
        networks: Private networks that may be reached, also without TLS.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def check(self, url: str) -> None:
        """Check that a URL may receive webhooks.

        Args:
            url: The URL of the receiver.

        Raises:
            Refused: The URL is malformed, without TLS, or leads to a private address.
            Unreachable: The name cannot be resolved.
        """
        host, port, secure = _parts(url)
        self._resolve(host, port, secure=secure)

    def send(self, url: str, secret: str, message_id: str, body: bytes) -> int:
        """Send a message once, and return the status; redirects are not followed.

        The body of the response is not read.

        Args:
            url: The URL of the receiver.
            secret: The secret that signs, as `whsec_...`.
            message_id: The id of the message, the same at each attempt.
            body: The JSON document.

        Raises:
            Refused: The URL may not be reached.
            Unreachable: No response came in time.
        """
        host, port, secure = _parts(url)
        addresses = self._resolve(host, port, secure=secure)
        now = datetime.now(UTC)
        headers: dict[bytes | str, bytes | str] = {
            "content-type": "application/json",
            "user-agent": "Layerloop-Webhooks",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(message_id, now, body.decode()),
        }
        backend = _CheckedBackend(addresses, time.monotonic() + SECONDS)
        timeouts = {"connect": CONNECT_SECONDS, "read": SECONDS, "write": SECONDS, "pool": SECONDS}
        context = ssl.create_default_context()
        try:
            with (
                httpcore.ConnectionPool(ssl_context=context, network_backend=backend) as pool,
                pool.stream(
                    "POST", url, headers=headers, content=body, extensions={"timeout": timeouts}
                ) as response,
            ):
                return int(response.status)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{host} does not answer: {reason}") from error

    def _resolve(self, host: str, port: int, *, secure: bool) -> list[str]:
        """Return the addresses of a host; raise unless every one may be reached."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"the name {host} cannot be resolved") from error
        addresses = [str(entry[4][0]) for entry in found]
        for text in addresses:
            address = ipaddress.ip_address(text.partition("%")[0])
            allowed = any(address in network for network in self._networks)
            if not allowed and not is_public(address):
                raise ForbiddenAddress(
                    f"{host} leads to {address}, which is not a public address",
                    "name its network in LAYERLOOP_WEBHOOK_NETWORKS if webhooks may go there",
                )
            if not allowed and not secure:
                raise ForbiddenAddress(
                    f"webhooks to {host} need https",
                    "http is for networks in LAYERLOOP_WEBHOOK_NETWORKS",
                )
        return list(dict.fromkeys(addresses))


def is_public(address: Address) -> bool:
    """Return whether an address is public: neither private nor reserved, nor one that embeds one.

    Args:
        address: An IPv4 or IPv6 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in EMBEDDING_NETWORKS):
            return False
    return address.is_global and not address.is_multicast


def parse_networks(text: str) -> list[Network]:
    """Return the networks of a comma-separated list. Raises Refused."""
    try:
        return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise Refused(
            f"LAYERLOOP_WEBHOOK_NETWORKS is not a list of networks: {error}",
            "write networks such as 10.0.0.0/8,192.168.7.20/32",
        ) from error


def _parts(url: str) -> tuple[str, int, bool]:
    """Return host, port and whether TLS is used. Raises Refused."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    clean = url.isascii() and url.isprintable() and " " not in url and len(url) <= 2_000
    if parts.scheme not in {"https", "http"} or not host or not clean:
        raise Refused(f"{url[:200]!r} is no URL of a receiver", "use https://host/path")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise Refused("the URL holds a user, a password or a fragment", "leave it out")
    secure = parts.scheme == "https"
    return host, port or (443 if secure else 80), secure


class _CheckedBackend(httpcore.NetworkBackend):
    """A network backend that connects to addresses that were checked, until a deadline."""

    def __init__(self, addresses: Sequence[str], deadline: float) -> None:
        self._addresses = addresses
        self._deadline = deadline
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002  # its addresses are known
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers."""
        failure: httpcore.NetworkError | httpcore.TimeoutException | None = None
        for address in self._addresses:
            seconds = _seconds_left(self._deadline, timeout)
            try:
                stream = self._backend.connect_tcp(
                    address, port, seconds, local_address, socket_options
                )
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failure = error
            else:
                return _BoundedStream(stream, self._deadline)
        raise failure or httpcore.ConnectError("no address")


class _BoundedStream(httpcore.NetworkStream):
    """A stream that ends at a deadline, so that a slow receiver holds no worker."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _seconds_left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _seconds_left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Start TLS; the receiver's certificate is checked for its name."""
        seconds = _seconds_left(self._deadline, timeout)
        return _BoundedStream(
            self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _seconds_left(deadline: float, timeout: float | None) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time is over")
    return left if timeout is None else min(left, timeout)
