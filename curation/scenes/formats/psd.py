"""Photoshop (PSD) export through psd-tools: pixel layers, and a blended image for viewers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from psd_tools import PSDImage
from psd_tools.psd import PSD

from curation.images.codec import composite_over
from curation.scenes.layer_stack import LayerStack

WHITE = (255, 255, 255)


class _Document(PSDImage):
    """A document with a blend of our own: psd-tools would blend the layers again on every save."""

    def is_updated(self) -> bool:
        return False


def write_psd(path: Path, stack: LayerStack) -> None:
    """Write 8-bit RGB layers with straight alpha, lowest first as in the format."""
    document = _Document.new("RGBA", stack.size)
    for source in stack.layers:
        layer = document.create_pixel_layer(
            Image.fromarray(source.rgba, "RGBA"),
            "",
            source.offset[1],
            source.offset[0],
            opacity=source.opacity,
        )
        # Set afterwards: only then is the name written in Unicode.
        layer.name = source.name
    # psd-tools has no API for the blend: save the layers, reopen the raw structure, replace it.
    saved = io.BytesIO()
    document.save(saved)
    saved.seek(0)
    written = PSD.read(saved)
    planes = [*composite_over(stack.merged, WHITE).transpose(2, 0, 1)]
    count = len(stack.layers)
    if (stack.merged[..., 3] < 255).any():
        # PSD convention: colors blended on white; a negative count marks a fourth plane, alpha.
        planes.append(stack.merged[..., 3])
        count = -count
    layers = written.layer_and_mask_information.layer_info
    assert layers is not None  # noqa: S101 - a scene has layers
    layers.layer_count = count
    written.header.channels = len(planes)
    written.image_data.set_data(
        [np.ascontiguousarray(plane).tobytes() for plane in planes], written.header
    )
    with path.open("wb") as file:
        written.write(file)
