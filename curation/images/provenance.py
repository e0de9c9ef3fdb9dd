"""Pictures as files that say how they were made: RGBA as PNG or WebP, with its prompt, seed and checkpoint inside."""

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
from curation.images.png import SIGNATURE, walk_chunks
from curation.input_files import read_input
from curation.object_store import write_file
from curation.ports import RGBA

MAX_PICTURE = 2 << 30
"""Bytes of a picture of our own; the largest layer has 268 million pixels."""

FORMATS = {"png": "PNG", "webp": "WEBP"}
"""What a drawn picture is saved as; both are exact, alpha and hidden colours too."""

_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:layerloop="urn:layerloop" \
xmp:CreatorTool="{tool}" \
Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source}" \
layerloop:drawn="{drawn}"/></rdf:RDF></x:xmpmeta>"""


DRAWN, COMPOSED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
"""IPTC's words for pictures that a model made wholly, and for those put together of its layers and other pictures."""


def save_picture(
    path: Path, rgba: RGBA, facts: Mapping[str, str] | None, source: str = DRAWN
) -> None:
    """Write the file of `encode_picture` for this name; whole or not. Raises Refused for another format."""
    data = encode_picture(path, rgba, facts, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)


def encode_picture(
    path: Path, rgba: RGBA, facts: Mapping[str, str] | None, source: str = DRAWN
) -> bytes:
    """Encode a straight H x W x 4 uint8 picture with its facts, in the format that the name ends in.

    XMP in both formats: the facts as JSON, and IPTC's mark of its digital source; in PNG also the text "parameters",
    which other drawing programs show. A picture of the user's own has no facts (None), and says nothing. Raises Refused
    for another format.
    """
    kind = _format(path)
    image = Image.fromarray(np.ascontiguousarray(rgba), "RGBA")
    lossless: dict[str, Any] = (
        {"lossless": True, "exact": True, "method": 4} if kind == "WEBP" else {}
    )
    out = io.BytesIO()
    image.save(
        out, kind, **lossless, **(_metadata(kind, facts, source) if facts is not None else {})
    )
    return out.getvalue()


def _metadata(kind: str, facts: Mapping[str, str], source: str) -> dict[str, Any]:
    """What the encoder of a format is given so that the file says how it was made."""
    tool = html.escape(f"Layerloop {facts.get('version', '')}".strip())
    xmp = _XMP.format(tool=tool, source=source, drawn=html.escape(canonical_json(dict(facts))))
    if kind == "WEBP":
        return {"xmp": xmp.encode()}
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    texts.add_itxt("parameters", parameters(facts))
    return {"pnginfo": texts}


def read_provenance(path: Path) -> dict[str, str]:
    """Read the facts in a file that `save_picture` wrote; no pixel of it is decoded.

    Raises:
        NotFound: There is no such file, or it does not say how it was made.
        Refused: What it says of itself is broken.
    """
    text = _xmp(read_input(path)).decode("utf-8", "replace")
    found = re.search(r'layerloop:drawn="([^"]*)"', text)
    if found is None:
        raise NotFound(
            f"{path} does not say how it was made", "only pictures of 'layerloop draw' do"
        )
    try:
        return {
            str(name): str(value) for name, value in json.loads(html.unescape(found[1])).items()
        }
    except (ValueError, AttributeError, RecursionError) as error:
        raise Refused(f"what {path} says of itself is broken: {error}") from error


def read_picture(path: Path) -> RGBA:
    """Read a picture that `save_picture` wrote, hidden colours included. Raises NotFound, Refused, Corrupt."""
    return decode_layer(read_input(path, MAX_PICTURE))


def _xmp(data: bytes) -> bytes:
    """The XMP packet of a PNG or WebP, b"" where there is none."""
    if data.startswith(SIGNATURE):
        texts = (body for kind, body in walk_chunks(data) if kind == b"iTXt")
        return next((text for text in texts if text.startswith(b"XML:com.adobe.xmp\0\0\0")), b"")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return next((body for kind, body in walk_riff(data, 12) if kind == b"XMP "), b"")
    return b""


def parameters(facts: Mapping[str, str]) -> str:
    """The facts in the lines that drawing programs exchange: prompt, negative prompt, then names and values."""
    names = {
        "steps": "Steps",
        "sampler": "Sampler",
        "guidance": "CFG scale",
        "seed": "Seed",
        "size": "Size",
        "model": "Model",
    }
    named = [f"{label}: {facts[name]}" for name, label in names.items() if name in facts]
    named += [
        f"{name}: {value}"
        for name, value in facts.items()
        if name not in {"prompt", "negative", *names}
    ]
    negative = [f"Negative prompt: {facts['negative']}"] if facts.get("negative") else []
    return "\n".join([facts.get("prompt", ""), *negative, ", ".join(named)])


def _format(path: Path) -> str:
    try:
        return FORMATS[path.suffix.lower().removeprefix(".")]
    except KeyError:
        raise Refused(
            f"{path.name} is in no format with alpha that is written", "end it in .png or .webp"
        ) from None
