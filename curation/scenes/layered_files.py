"""A finished scene as one file with layers, for painting programs: Photoshop's, OpenRaster, TIFF of several pages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from curation.errors import Refused
from curation.images.provenance import read_picture
from curation.scenes.formats.ora import write_ora
from curation.scenes.formats.psd import write_psd
from curation.scenes.formats.tiff import write_tiff
from curation.scenes.layer_stack import LayerStack, StackLayer
from curation.scenes.manifest import LAYERED, Manifest, write_whole


class Writer(Protocol):
    """Writes a stack as one file."""

    def __call__(self, path: Path, stack: LayerStack) -> None:
        """Write it; alpha stays straight."""


WRITERS: Final[dict[str, Writer]] = {"psd": write_psd, "ora": write_ora, "tiff": write_tiff}
"""By the ends of their names."""


def read_formats(text: str | None) -> Sequence[str]:
    """The formats in "psd,ora"; none for None. Raises Refused for one that is not written."""
    formats = [one.strip().lower() for one in (text or "").split(",") if one.strip()]
    for one in formats:
        if one not in WRITERS:
            raise Refused(
                f"scenes are not written as {one!r}",
                f"choose of {', '.join(WRITERS)}; or several: psd,ora",
            )
    return list(dict.fromkeys(formats))


def write_layered(folder: Path, manifest: Manifest, formats: Sequence[str]) -> list[Path]:
    """Write a complete scene's folder in each format, beside its pictures; returns the files."""
    if not formats:
        return []
    sheets = [
        StackLayer(
            one.name, read_picture(folder / one.file), (one.offset[0], one.offset[1]), one.opacity
        )
        for one in manifest.layers
    ]
    merged = read_picture(folder / manifest.steps[-1].blended)
    stack = LayerStack((manifest.size[0], manifest.size[1]), sheets, merged)
    files = []
    for one in formats:
        path = folder / LAYERED[one]
        write_whole(path, partial(WRITERS[one], stack=stack))
        files.append(path)
    return files
