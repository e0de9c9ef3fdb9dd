"""Generated images as PNG or WebP files with provenance: prompt, seed, checkpoint and options."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from curation.domain import canonical_json
from curation.errors import NotFound, Refused
from curation.images.codec import decode_layer
from curation.images.containers import walk_riff
from curation.images.content_credentials import ContentSigner
from curation.images.png import SIGNATURE, walk_chunks
from curation.input_files import read_input
from curation.object_store import write_file_atomically
from curation.ports import RGBA

MAX_FILE_BYTES = 2 << 30
"""Maximum size of such a file in bytes; the largest layer has 268 million pixels."""

FORMATS = {"png": "PNG", "webp": "WEBP"}
"""Output formats; both are lossless, including hidden colors under alpha 0."""

_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/">\
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:layerloop="urn:layerloop" \
xmp:CreatorTool="{tool}" \
Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source}" \
layerloop:drawn="{drawn}"/></rdf:RDF></x:xmpmeta>"""


GENERATED, COMPOSED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source types of generated images, and of composites of them with others."""


def save_image(
    path: Path,
    rgba: RGBA,
    metadata: Mapping[str, str] | None,
    source: str = GENERATED,
    signer: ContentSigner | None = None,
) -> None:
    """Write an image with its provenance atomically; see `encode_image`.

    Args:
        path: The output file; its suffix is the format.
        rgba: H x W x 4 uint8, straight alpha.
        metadata: The provenance; None for an image of the user's own.
        source: The IPTC digital source type.
        signer: Adds signed Content Credentials to an image with provenance.

    Raises:
        Refused: The format is not supported, or the certificate cannot be used.
    """
    data = encode_image(path, rgba, metadata, source)
    if signer is not None and metadata is not None:
        data = signer.sign(
            data,
            _format(path).lower(),
            source=source,
            checkpoint=metadata.get("checkpoint", ""),
            version=metadata.get("version", ""),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(path, data)


def encode_image(
    path: Path, rgba: RGBA, metadata: Mapping[str, str] | None, source: str = GENERATED
) -> bytes:
    """Encode an image with its provenance as XMP.

    The XMP has the provenance as JSON and the IPTC digital source type; a PNG also has the text
    "parameters", which other image generators show.

    Args:
        path: The output file; its suffix is the format.
        rgba: H x W x 4 uint8, straight alpha.
        metadata: The provenance; None for an image of the user's own, which gets none.
        source: The IPTC digital source type.

    Returns:
        The bytes of the file.

    Raises:
        Refused: The format is not supported.
    """
    kind = _format(path)
    image = Image.fromarray(np.ascontiguousarray(rgba), "RGBA")
    lossless: dict[str, Any] = (
        {"lossless": True, "exact": True, "method": 4} if kind == "WEBP" else {}
    )
    out = io.BytesIO()
    image.save(
        out, kind, **lossless, **(_metadata(kind, metadata, source) if metadata is not None else {})
    )
    return out.getvalue()


def _metadata(kind: str, metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """Return the keyword arguments for Pillow that write the metadata in a format."""
    tool = html.escape(f"Layerloop {metadata.get('version', '')}".strip())
    xmp = _XMP.format(tool=tool, source=source, drawn=html.escape(canonical_json(dict(metadata))))
    if kind == "WEBP":
        return {"xmp": xmp.encode()}
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    texts.add_itxt("parameters", format_parameters(metadata))
    return {"pnginfo": texts}


def read_provenance(path: Path) -> dict[str, str]:
    """Read the provenance from a file of `save_image` without decoding its pixels.

    Args:
        path: The file.

    Returns:
        The provenance by name.

    Raises:
        NotFound: There is no such file, or it has no provenance.
        Refused: Its provenance is broken.
    """
    text = _xmp(read_input(path)).decode("utf-8", "replace")
    found = re.search(r'layerloop:drawn="([^"]*)"', text)
    if found is None:
        raise NotFound(f"{path} has no provenance", "only images of 'layerloop generate' have it")
    try:
        return {
            str(name): str(value) for name, value in json.loads(html.unescape(found[1])).items()
        }
    except (ValueError, AttributeError, RecursionError) as error:
        raise Refused(f"the provenance of {path} is broken: {error}") from error


def read_image(path: Path) -> RGBA:
    """Read the pixels of a file of `save_image`, including hidden colors.

    Args:
        path: The file.

    Returns:
        H x W x 4 uint8, straight alpha.

    Raises:
        NotFound: There is no such file.
        Refused: It is too large.
        Corrupt: It cannot be decoded.
    """
    return decode_layer(read_input(path, MAX_FILE_BYTES))


def _xmp(data: bytes) -> bytes:
    """Return the XMP packet of a PNG or WebP, b"" if there is none."""
    if data.startswith(SIGNATURE):
        texts = (body for kind, body in walk_chunks(data) if kind == b"iTXt")
        return next((text for text in texts if text.startswith(b"XML:com.adobe.xmp\0\0\0")), b"")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return next((body for kind, body in walk_riff(data, 12) if kind == b"XMP "), b"")
    return b""


def format_parameters(metadata: Mapping[str, str]) -> str:
    """Format provenance as the text "parameters" of image generators: prompts, then values."""
    names = {
        "steps": "Steps",
        "sampler": "Sampler",
        "guidance": "CFG scale",
        "seed": "Seed",
        "size": "Size",
        "model": "Model",
    }
    fields = [f"{label}: {metadata[name]}" for name, label in names.items() if name in metadata]
    fields += [
        f"{name}: {value}"
        for name, value in metadata.items()
        if name not in {"prompt", "negative", *names}
    ]
    negative = [f"Negative prompt: {metadata['negative']}"] if metadata.get("negative") else []
    return "\n".join([metadata.get("prompt", ""), *negative, ", ".join(fields)])


def _format(path: Path) -> str:
    try:
        return FORMATS[path.suffix.lower().removeprefix(".")]
    except KeyError:
        raise Refused(
            f"unsupported output format: {path.name}", "use the suffix .png or .webp"
        ) from None
