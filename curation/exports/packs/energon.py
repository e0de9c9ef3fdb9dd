"""The description of a pack for Megatron Energon: `.nv-meta`, whose YAML files are also JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from curation.exports.packs.folder import PackFolder
from curation.exports.packs.index import group_by_sample, read_index
from curation.exports.packs.version import PackVersion, Shard, read_version

FOLDER = ".nv-meta"
SPLITS = {"train": "train", "val": "validation"}
"""Energon's splits and their groups; withheld samples are in none."""

DESCRIPTION = {
    "sample_type": {"__module__": "megatron.energon", "__class__": "CaptioningSample"},
    "field_map": {"image": "foreground.webp", "caption": "txt"},
    # Otherwise alpha would be dropped.
    "decoder": {
        "__module__": "megatron.energon",
        "__class__": "SampleDecoder",
        "image_decode": "torchrgba",
    },
}
"""Foregrounds with captions; further layers are read by another field map."""


def write_energon(folder: PackFolder, snapshot: str, write: Callable[[str, bytes], None]) -> None:
    """Write the description of a version; removed samples are excluded from its splits.

    Args:
        folder: The folder of the pack.
        snapshot: Id of the version.
        write: Function that writes a file.
    """
    for path, data in energon_files(folder, read_version(folder, snapshot)).items():
        write(path, data)


def energon_files(folder: PackFolder, version: PackVersion) -> dict[str, bytes]:
    """Return the files of `.nv-meta` by path.

    Args:
        folder: The folder of the pack, for the ids of removed samples.
        version: The version.
    """
    shards = [shard for shard in version.shards if shard.group in SPLITS.values()]
    excluded = [
        f"{shard.tar}/{sample}" for shard in shards for sample in removed_samples(folder, shard)
    ]
    parts = {
        split: [shard.tar for shard in shards if shard.group == group]
        for split, group in SPLITS.items()
    }
    counts = {shard.tar: shard.samples for shard in shards}
    return {
        f"{FOLDER}/.info.json": _text({"shard_counts": counts}),
        f"{FOLDER}/split.yaml": _text({"split_parts": parts | {"test": []}, "exclude": excluded}),
        f"{FOLDER}/dataset.yaml": _text(DESCRIPTION),
    }


def removed_samples(folder: PackFolder, shard: Shard) -> list[str]:
    """Return the ids of the removed samples of a shard."""
    if not shard.removed:
        return []
    ids = list(group_by_sample(read_index(folder.read(shard.index_path), shard.size, shard.name)))
    return [ids[number] for number in shard.removed]


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
