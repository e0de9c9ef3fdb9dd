"""Layouts without a trainer: images with a table, and tasks of Label Studio."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from curation.domain import canonical_json
from curation.exports.plan import (
    SPLIT_FOLDERS,
    PlannedFile,
    PullOptions,
    caption_of,
    columns_of,
    first_role,
    image_files,
)
from curation.exports.rendering import Alpha
from curation.exports.selection import SelectedSample


class PlainLayout:
    """`train/ID.png` with further layers beside it, and one `metadata.jsonl`."""

    def files(
        self, selected: Sequence[SelectedSample], options: PullOptions
    ) -> Iterator[PlannedFile]:
        """Yield the images, then the table."""
        lines = []
        for one in selected:
            base = f"{SPLIT_FOLDERS[one.sample.split]}/{one.sample.id}"
            images = list(image_files(base, one, options))
            yield from images
            if options.treatment.alpha is Alpha.mask:
                layer = one.sample.layers[first_role(one.sample, options.roles)]
                yield PlannedFile(f"{base}.mask.png", one.sample.id, layer)
            names = [image.path for image in images]
            row = {"file_name": names[0], "layers": names} | columns_of(one, options)
            lines.append(canonical_json(row) + "\n")
        yield PlannedFile("metadata.jsonl", "", text="".join(lines).encode())


class LabelStudioLayout:
    """`tasks.json` of Label Studio and `images/`, served by its local file storage.

    LOCAL_FILES_DOCUMENT_ROOT must be the folder that contains the pulled one.
    """

    def files(
        self, selected: Sequence[SelectedSample], options: PullOptions
    ) -> Iterator[PlannedFile]:
        """Yield the images, then the tasks."""
        tasks = []
        for one in selected:
            images = list(image_files(f"images/{one.sample.id}", one, options))
            yield from images
            data = {"image": _address(options, images[0].path)}
            data |= {f"layer_{place}": _address(options, image.path)
                     for place, image in enumerate(images[1:], 1)}  # fmt: skip
            data |= {"caption": caption_of(one.sample, options.roles)}
            data |= {name: value for name, value in columns_of(one, options).items()
                     if name not in ("text", "weight")}  # fmt: skip
            tasks.append({"data": data})
        text = json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"
        yield PlannedFile("tasks.json", "", text=text.encode())


def _address(options: PullOptions, path: str) -> str:
    return f"/data/local-files/?d={options.folder.name}/{path}"
