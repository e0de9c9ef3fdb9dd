"""Photoshop's format (PSD) through psd-tools: pixel layers with transparency, and the blended picture for viewers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from psd_tools import PSDImage
from psd_tools.psd import PSD

from curation.images.codec import over
from curation.scenes.layer_stack import LayerStack

WHITE = (255, 255, 255)


class _Document(PSDImage):
    """A document whose blended picture is ours: psd-tools would blend its layers anew for every file it saves."""

    def is_updated(self) -> bool:
        return False


def write_psd(path: Path, stack: LayerStack) -> None:
    """Write 8-bit RGB with straight alpha in every layer, lowest first as the format has it."""
    document = _Document.new("RGBA", stack.size)
    for sheet in stack.sheets:
        layer = document.create_pixel_layer(
            Image.fromarray(sheet.rgba, "RGBA"),
            "",
            sheet.offset[1],
            sheet.offset[0],
            opacity=sheet.opacity,
        )
        layer.name = sheet.name  # set afterwards: only so is it written in Unicode
    saved = io.BytesIO()
    document.save(saved)
    saved.seek(0)
    written = PSD.read(saved)
    planes = [*over(stack.merged, WHITE).transpose(2, 0, 1)]
    count = len(stack.sheets)
    if (stack.merged[..., 3] < 255).any():
        # The format's own convention: colours on white, and a negative count says that a fourth plane is alpha.
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
