"""Layouts for other programs than trainers: images with a table, and tasks of Label Studio."""

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
        for item in selected:
            base = f"{SPLIT_FOLDERS[item.sample.split]}/{item.sample.id}"
            images = list(image_files(base, item, options))
            yield from images
            if options.treatment.alpha is Alpha.mask:
                layer = item.sample.layers[first_role(item.sample, options.roles)]
                yield PlannedFile(f"{base}.mask.png", item.sample.id, layer)
            names = [image.path for image in images]
            row = {"file_name": names[0], "layers": names} | columns_of(item, options)
            lines.append(canonical_json(row) + "\n")
        yield PlannedFile("metadata.jsonl", "", text="".join(lines).encode())


class LabelStudioLayout:
    """`tasks.json` of Label Studio and `images/`, served by its local file storage.

    LOCAL_FILES_DOCUMENT_ROOT must be the parent of the pulled folder.
    """

    def files(
        self, selected: Sequence[SelectedSample], options: PullOptions
    ) -> Iterator[PlannedFile]:
        """Yield the images, then the tasks."""
        tasks = []
        for item in selected:
            images = list(image_files(f"images/{item.sample.id}", item, options))
            yield from images
            data = {"image": _url(options, images[0].path)}
            data |= {f"layer_{index}": _url(options, image.path)
                     for index, image in enumerate(images[1:], 1)}  # fmt: skip
            data |= {"caption": caption_of(item.sample, options.roles)}
            data |= {name: value for name, value in columns_of(item, options).items()
                     if name not in ("text", "weight")}  # fmt: skip
            tasks.append({"data": data})
        text = json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"
        yield PlannedFile("tasks.json", "", text=text.encode())


def _url(options: PullOptions, path: str) -> str:
    return f"/data/local-files/?d={options.folder.name}/{path}"
