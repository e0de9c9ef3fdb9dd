"""Inspection of single files, as an import does it, to find their images in the instance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curation.errors import Refused
from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.ingest import confined
from curation.ingest.inspection_result import ImportItem, InspectionResult, LoadedItem
from curation.ingest.sandbox_process import ItemFailure
from curation.input_files import read_input


def inspect_files(
    files: Sequence[Path], limits: ImageLimits = DEFAULT_LIMITS
) -> list[InspectionResult]:
    """Decode files in a confined process, and return their layers, pixel hashes and fingerprints.

    Args:
        files: The files of single images.
        limits: Limits of one image.

    Raises:
        Refused: A file cannot be read as an image with transparency.
    """
    items = [
        LoadedItem(
            ImportItem(str(file), (str(file),), "", number),
            (read_input(file, limits.bytes),),
            limits,
        )
        for number, file in enumerate(files, 1)
    ]
    found = []
    with confined.open_sandbox(1, limits) as sandbox:
        for loaded, result in sandbox.run(items):
            one = (
                confined.failed_result(loaded, result)
                if isinstance(result, ItemFailure)
                else result
            )
            if one.layer is None:
                raise Refused(
                    f"{loaded.item.name} is no image that an import would take: {one.sentence}",
                    "give the file as it was imported, or the sample by --sample",
                )
            found.append(one)
    return found
