"""The sender of webhooks: signatures that the library verifies, and addresses that it refuses."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl

import pytest

from curation.adapters import webhook_sender
from curation.adapters.webhook_sender import (
    ForbiddenAddress,
    WebhookSender,
    is_public,
    parse_networks,
)
from curation.errors import Refused, Unreachable
from tests.support.servers import free_port
from tests.support.webhook_receiver import receiver

SECRET = "whsec_" + "A" * 43 + "="
LOOPBACK = parse_networks("127.0.0.0/8, ::1/128")


def resolve(monkeypatch, **names: list[str]) -> None:
    """Let names with underscores for dots resolve to these addresses."""

    def getaddrinfo(host, port, *_, **__):
        addresses = names.get(host.replace(".", "_"), [host])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(webhook_sender.socket, "getaddrinfo", getaddrinfo)


def test_a_signed_message_is_received_under_its_id():
    with receiver() as got:
        got.secret = SECRET
        body = '{"type":"webhook.tested","text":"für"}'.encode()
        assert WebhookSender(LOOPBACK).send(got.url, SECRET, "msg_1", body) == 204
    assert got.received == [("msg_1", {"type": "webhook.tested", "text": "für"})]
    assert got.requests[0]["content-type"] == "application/json"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address):
    assert not is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ForbiddenAddress, match="not a public address"):
        WebhookSender().check(f"https://{host}/hook")


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "localhost"])
def test_other_spellings_of_loopback_are_refused(host):
    with pytest.raises((ForbiddenAddress, Unreachable)):
        WebhookSender().check(f"https://{host}/hook")


def test_public_addresses_need_tls(monkeypatch):
    assert is_public(ipaddress.ip_address("93.184.216.34"))
    assert is_public(ipaddress.ip_address("2606:2800:220:1::1"))
    resolve(monkeypatch, hook_example=["93.184.216.34"])
    WebhookSender().check("https://hook.example/x")
    with pytest.raises(ForbiddenAddress, match="need https"):
        WebhookSender().check("http://hook.example/x")


def test_a_name_with_one_private_address_is_refused(monkeypatch):
    resolve(monkeypatch, hook_example=["93.184.216.34", "10.0.0.1"])
    with pytest.raises(ForbiddenAddress, match=r"10\.0\.0\.1"):
        WebhookSender().send("https://hook.example/x", SECRET, "msg_1", b"{}")


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    """The name is resolved once, so that a second answer cannot lead elsewhere (DNS rebinding)."""
    with receiver() as got:
        answers = [["127.0.0.1"], ["10.0.0.1"]]

        def getaddrinfo(_, port, *__, **___):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0)[0], port))]

        with monkeypatch.context() as patch:
            patch.setattr(webhook_sender.socket, "getaddrinfo", getaddrinfo)
            # A connection by address alone resolves it too; that goes to the real function.
            patch.setattr(socket, "create_connection", direct_connection)
            url = got.url.replace("127.0.0.1", "hook.example")
            assert WebhookSender(LOOPBACK).send(url, SECRET, "msg_1", b"{}") == 204
        assert len(answers) == 1
    assert got.requests[0]["host"].startswith("hook.example:")


def direct_connection(address, timeout=None, source_address=None, **_):
    connection = socket.socket()
    connection.settimeout(timeout)
    connection.connect(address)
    return connection


def test_redirects_are_not_followed():
    with receiver() as got, receiver() as other:
        got.statuses, got.headers = [302], {"location": other.url}
        assert WebhookSender(LOOPBACK).send(got.url, SECRET, "msg_1", b"{}") == 302
    assert other.requests == []


def test_a_receiver_that_does_not_answer_in_time_is_left(monkeypatch):
    monkeypatch.setattr(webhook_sender, "SECONDS", 0.3)
    with receiver() as got:
        got.pause.clear()
        with pytest.raises(Unreachable, match="does not answer"):
            WebhookSender(LOOPBACK).send(got.url, SECRET, "msg_1", b"{}")
    with pytest.raises(Unreachable):
        WebhookSender(LOOPBACK).send(f"http://127.0.0.1:{free_port()}/", SECRET, "msg_1", b"{}")


@pytest.mark.parametrize(
    "url",
    [
        "", "hook.example", "ftp://hook.example/", "file:///etc/passwd", "https://", "https:///x", "https://[::1",
        "https://user:pass@hook.example/", "https://hook.example/#x", "https://hook.example/a b", "https://hook.example:x/",
        "https://hook.example/\n", "https://hook.example/" + "x" * 2_000, "https://höok.example/",
    ],
)  # fmt: skip
def test_other_urls_are_refused(url):
    with pytest.raises(Refused):
        WebhookSender(LOOPBACK).check(url)


def test_networks_are_read_from_a_list():
    assert [str(one) for one in parse_networks("10.0.0.0/8,,192.168.7.20")] == [
        "10.0.0.0/8",
        "192.168.7.20/32",
    ]
    with pytest.raises(Refused, match="LAYERLOOP_WEBHOOK_NETWORKS"):
        parse_networks("10.0.0.1/8")


def test_the_certificate_is_checked_for_the_name(tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path, "hook.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    resolve(monkeypatch, hook_example=["127.0.0.1"], other_example=["127.0.0.1"])
    monkeypatch.setattr(socket, "create_connection", direct_connection)
    with receiver(context) as got:
        sender = WebhookSender(LOOPBACK)
        url = got.url.replace("127.0.0.1", "hook.example")
        assert sender.send(url, SECRET, "msg_1", b"{}") == 204
        with pytest.raises(Unreachable, match="certificate"):
            sender.send(url.replace("hook.", "other."), SECRET, "msg_1", b"{}")


def make_certificate(folder, name):
    """Write a self-signed certificate with its key into one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file
