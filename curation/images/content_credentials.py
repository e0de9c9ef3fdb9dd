"""Content Credentials (C2PA) in generated images, signed with the user's key and certificate.

The manifest states the digital source type, the checkpoint and the version. The package c2pa-python
is the extra `layerloop[c2pa]`, and is imported only where a key and a certificate are given.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

from curation.errors import LayerloopError, Refused
from curation.input_files import read_input
from curation.object_store import compute_sha256

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
LABEL = "org.layerloop.generation"
"""The label of the assertion that names checkpoint and version."""
MAX_KEY_BYTES = 1 << 20


@dataclass(frozen=True)
class ContentSigner:
    """A certificate chain and its private key, which no text of this object shows."""

    certificates: bytes
    key: bytes = field(repr=False)
    algorithm: str

    @property
    def id(self) -> str:
        """The first digits of the hash of the certificates: another signer signs anew."""
        return f"c2pa {compute_sha256(self.certificates)[:16]}"

    def sign(self, data: bytes, kind: str, *, source: str, checkpoint: str, version: str) -> bytes:
        """Return an image with a signed manifest in it; the pixels stay as they are.

        Args:
            data: The image file.
            kind: "png", "webp" or "jpeg".
            source: IPTC digital source type, such as "trainedAlgorithmicMedia".
            checkpoint: Id of the checkpoint.
            version: Version of Layerloop.

        Raises:
            Refused: The certificate cannot be used for Content Credentials.
        """
        import c2pa

        info = c2pa.C2paSignerInfo(self.algorithm.encode(), self.certificates, self.key, None)
        signed = io.BytesIO()
        try:
            builder = c2pa.Builder(_manifest(source, checkpoint, version))
            with c2pa.Signer.from_info(info) as signer:
                builder.sign(signer, f"image/{kind}", io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            # Its texts name what is wrong with a certificate, and hold no key.
            raise Refused(
                f"the image cannot be signed: {str(error).splitlines()[0][:200]}",
                "use a certificate chain for signing (extended key usage) that is valid now",
            ) from None
        return signed.getvalue()


def open_signer(certificate: Path | None, key: Path | None) -> ContentSigner | None:
    """Return the signer of two files in PEM, or None if neither is given.

    Args:
        certificate: The certificate chain, the signer's own first.
        key: The private key, not encrypted.

    Raises:
        Refused: Only one is given, a file cannot be read as what it should be, or they do not
            belong together.
        NotFound: There is no such file.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise Refused(
            "Content Credentials need a certificate and a key",
            "set LAYERLOOP_CONTENT_CERTIFICATE and LAYERLOOP_CONTENT_KEY, or neither",
        )
    try:
        import c2pa  # noqa: F401 - only whether it is installed
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from cryptography.x509 import load_pem_x509_certificates
    except ModuleNotFoundError as error:
        raise LayerloopError(
            f"{error.name} is not installed", "pip install 'layerloop[c2pa]'"
        ) from error
    chain, secret = read_input(certificate, MAX_KEY_BYTES), read_input(key, MAX_KEY_BYTES)
    try:
        own = load_pem_x509_certificates(chain)[0].public_key()
    except ValueError:
        raise Refused(f"{certificate} is no certificate in PEM", "give the chain") from None
    try:
        private = load_pem_private_key(secret, None)
    except (ValueError, TypeError):
        raise Refused(
            f"{key} is no private key in PEM without a password", "give the key"
        ) from None
    if private.public_key() != own:
        raise Refused(
            f"the key {key} does not belong to {certificate}", "give the certificate's key"
        )
    return ContentSigner(chain, secret, _algorithm(private, key))


def _algorithm(private: object, key: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey):
        known = {256: "es256", 384: "es384", 521: "es512"}
        if private.curve.key_size in known and private.curve.name.startswith("secp"):
            return known[private.curve.key_size]
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise Refused(
        f"the type of the key {key} is not supported", "use ES256, ES384, PS256 or Ed25519"
    )


def _manifest(source: str, checkpoint: str, version: str) -> dict[str, object]:
    agent = {"name": "Layerloop", "version": version}
    created = {
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPES + source,
        "softwareAgent": agent,
    }
    return {
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [created]}},
            {"label": LABEL, "data": {"checkpoint": checkpoint, "version": version}},
        ],
    }
