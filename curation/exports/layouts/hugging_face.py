"""The layout of Hugging Face's `imagefolder`: images below a split, with metadata.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from curation.domain import canonical_json
from curation.exports.plan import (
    SPLIT_FOLDERS,
    PlannedFile,
    PullOptions,
    columns_of,
    first_role,
    image_files,
)
from curation.exports.rendering import Alpha
from curation.exports.selection import SelectedSample


class ImageFolderLayout:
    """`train/3f/ID.png` and `train/metadata.jsonl`, at most a few thousand files in a folder.

    A row's `file_name` is the image; the files of further layers are in columns such as
    `background_file_name`, which become the columns `background` and so on. Where alpha is a mask,
    the column is `mask`.
    """

    def files(
        self, selected: Sequence[SelectedSample], options: PullOptions
    ) -> Iterator[PlannedFile]:
        """Yield the images of all samples, then the metadata of each split."""
        rows: dict[str, list[str]] = {}
        for item in selected:
            split = SPLIT_FOLDERS[item.sample.split]
            local = f"{item.sample.id[:2]}/{item.sample.id}"
            yield from image_files(f"{split}/{local}", item, options)
            row = _row(local, item, options)
            if options.treatment.alpha is Alpha.mask:
                layer = item.sample.layers[first_role(item.sample, options.roles)]
                yield PlannedFile(f"{split}/{local}.mask.png", item.sample.id, layer)
                row["mask_file_name"] = f"{local}.mask.png"
            rows.setdefault(split, []).append(canonical_json(row) + "\n")
        for split, lines in rows.items():
            yield PlannedFile(f"{split}/metadata.jsonl", "", text="".join(lines).encode())


def _row(local: str, item: SelectedSample, options: PullOptions) -> dict[str, Any]:
    ending = options.treatment.image_type
    row: dict[str, Any] = {"file_name": f"{local}.{ending}"} | columns_of(item, options)
    for role in options.roles[1:]:
        row[f"{role}_file_name"] = f"{local}.{role}.{ending}"
    return row
