"""Content Credentials are read by C2PA's own reader; wrong keys and certificates are named plainly."""

from __future__ import annotations

import datetime as dt
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("c2pa", reason="the extra c2pa is not installed")

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from curation.errors import NotFound, Refused
from curation.exports.formats import FORMATS, PullRequest, pull_snapshot
from curation.exports.rendering import Treatment
from curation.exports.selection import Selection
from curation.exports.verify_pull import verify_folder
from curation.images.content_credentials import LABEL, open_signer
from curation.images.provenance import GENERATED, save_image
from tests.support.factories import image
from tests.support.snapshots import make_sample, make_snapshot

CHECKPOINT, VERSION = "ab" * 32, "0.1.0"


def name(text: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A test"),
            x509.NameAttribute(NameOID.COMMON_NAME, text),
        ]
    )


def write_chain(folder, *, days: int = 30):
    """Write the key and the chain of a certificate that a test authority issued."""
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)

    def issue(subject, key, authority):
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        made = (
            x509.CertificateBuilder()
            .subject_name(name(subject)).issuer_name(name("authority")).public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=60))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not authority, key_cert_sign=authority, crl_sign=authority,
                    **usage,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()),
                critical=False,
            )
        )  # fmt: skip
        if not authority:
            mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            made = made.add_extension(mail, critical=False)
        return made.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(
        issue("signer", own.public_key(), False) + issue("authority", root.public_key(), True)
    )
    key.write_bytes(
        own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, key


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_the_reader_finds_source_type_checkpoint_and_version(tmp_path, kind):
    signer = open_signer(*write_chain(tmp_path))
    drawn = Image.fromarray(image(1))
    out = io.BytesIO()
    (drawn.convert("RGB") if kind == "jpeg" else drawn).save(out, kind)
    signed = signer.sign(
        out.getvalue(), kind, source=GENERATED, checkpoint=CHECKPOINT, version=VERSION
    )
    with c2pa.Reader(f"image/{kind}", io.BytesIO(signed)) as reader:
        found = json.loads(reader.json())
    manifest = found["manifests"][found["active_manifest"]]
    stated = {one["label"]: one["data"] for one in manifest["assertions"]}
    (action,) = next(v for k, v in stated.items() if k.startswith("c2pa.actions"))["actions"]
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert stated[LABEL] == {"checkpoint": CHECKPOINT, "version": VERSION}
    # The test's authority is not trusted by anybody; nothing else may be wrong.
    problems = {one["code"] for one in found.get("validation_status", ())}
    assert problems <= {"signingCredential.untrusted"}
    with Image.open(io.BytesIO(signed)) as again, Image.open(out) as before:
        assert np.array_equal(np.asarray(again), np.asarray(before))


def test_a_generated_file_is_signed_where_a_key_is_given(tmp_path):
    signer = open_signer(*write_chain(tmp_path))
    metadata = {"prompt": "a shape", "checkpoint": CHECKPOINT, "version": VERSION}
    for suffix in ("png", "webp"):
        plain, signed = tmp_path / f"plain.{suffix}", tmp_path / f"signed.{suffix}"
        save_image(plain, image(2), metadata)
        save_image(signed, image(2), metadata, signer=signer)
        with c2pa.Reader(f"image/{suffix}", io.BytesIO(signed.read_bytes())) as reader:
            assert CHECKPOINT in reader.json()
        with pytest.raises(c2pa.C2paError):
            c2pa.Reader(f"image/{suffix}", io.BytesIO(plain.read_bytes()))
        with Image.open(signed) as found:
            assert np.array_equal(np.asarray(found), image(2))


def test_wrong_files_are_named_and_the_key_is_never_shown(tmp_path):
    chain, key = write_chain(tmp_path)
    (tmp_path / "other").mkdir()
    _, foreign = write_chain(tmp_path / "other")
    secret = key.read_text().splitlines()[1]
    for certificate, private, text in (
        (chain, None, "need a certificate and a key"),
        (chain, foreign, "does not belong to"),
        (key, key, "no certificate in PEM"),
        (chain, chain, "no private key in PEM"),
    ):
        with pytest.raises(Refused, match=text) as error:
            open_signer(certificate, private)
        assert secret not in str(error.value) + error.value.hint
    with pytest.raises(NotFound):
        open_signer(tmp_path / "nothing.pem", key)
    assert open_signer(None, None) is None
    assert secret not in repr(open_signer(chain, key))


def test_an_expired_certificate_is_refused(tmp_path):
    signer = open_signer(*write_chain(tmp_path, days=-1))
    out = io.BytesIO()
    Image.fromarray(image(1)).save(out, "png")
    with pytest.raises(Refused, match="cannot be signed") as error:
        signer.sign(out.getvalue(), "png", source=GENERATED, checkpoint="", version="")
    assert "PRIVATE KEY" not in str(error.value)


def test_a_pull_signs_generated_images_alone(tmp_path, store):
    generated = replace(make_sample(store, 1), licence="generated by 0123456789ab")
    imported = make_sample(store, 2)
    snapshot = make_snapshot(store, [generated, imported])
    chosen = FORMATS["png"]
    request = PullRequest(
        chosen, Selection(chosen.splits), Treatment(), signer=open_signer(*write_chain(tmp_path))
    )
    folder = tmp_path / "pulled"
    pull_snapshot(store, snapshot, request, folder)
    signed = {}
    for file in folder.rglob("*.png"):
        try:
            with c2pa.Reader("image/png", io.BytesIO(file.read_bytes())) as reader:
                signed[file.stem] = "0123456789ab" in reader.json()
        except c2pa.C2paError:
            signed[file.stem] = False
    assert sorted(signed.values()) == [False, True]
    assert verify_folder(folder) == []
    # The same signer signs nothing twice; without one the image is written anew.
    assert pull_snapshot(store, snapshot, request, folder).written == 0
    plain = replace(request, signer=None)
    assert pull_snapshot(store, snapshot, plain, folder).written == 1
