"""Export of a finished scene as one layered file: PSD, OpenRaster or multi-page TIFF."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from curation.errors import Refused
from curation.images.provenance import read_image
from curation.scenes.formats.ora import write_ora
from curation.scenes.formats.psd import write_psd
from curation.scenes.formats.tiff import write_tiff
from curation.scenes.layer_stack import LayerStack, StackLayer
from curation.scenes.manifest import LAYERED_FILE_NAMES, SceneManifest, write_atomically


class LayeredFileWriter(Protocol):
    """A function that writes a layer stack as one file."""

    def __call__(self, path: Path, stack: LayerStack) -> None:
        """Write the stack with straight alpha."""


WRITERS: Final[dict[str, LayeredFileWriter]] = {
    "psd": write_psd,
    "ora": write_ora,
    "tiff": write_tiff,
}
"""Writers by file extension."""


def parse_formats(text: str | None) -> Sequence[str]:
    """Parse formats such as "psd,ora"; none for None. Raises Refused for an unknown format."""
    formats = [name.strip().lower() for name in (text or "").split(",") if name.strip()]
    # Fail before anything is generated.
    for name in formats:
        if name not in WRITERS:
            raise Refused(
                f"unknown layered format {name!r}",
                f"choose from {', '.join(WRITERS)}, or several: psd,ora",
            )
    return list(dict.fromkeys(formats))


def write_layered_files(
    folder: Path, manifest: SceneManifest, formats: Sequence[str]
) -> list[Path]:
    """Write a complete scene in each format into its folder.

    Args:
        folder: The scene's folder.
        manifest: The manifest of the complete scene.
        formats: Keys of WRITERS.

    Returns:
        The files.
    """
    if not formats:
        return []
    layers = [
        StackLayer(
            layer.name,
            read_image(folder / layer.file),
            (layer.offset[0], layer.offset[1]),
            layer.opacity,
        )
        for layer in manifest.layers
    ]
    # Viewers without layer support show the blend, so it is the one already on disk.
    merged = read_image(folder / manifest.steps[-1].blended)
    stack = LayerStack((manifest.size[0], manifest.size[1]), layers, merged)
    files = []
    for name in formats:
        path = folder / LAYERED_FILE_NAMES[name]
        write_atomically(path, partial(WRITERS[name], stack=stack))
        files.append(path)
    return files
