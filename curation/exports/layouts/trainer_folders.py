"""Layouts of trainers that read an image with a text file beside it, and repeat whole folders.

kohya's sd-scripts, OneTrainer, ai-toolkit and SimpleTuner drop alpha, so that images are composited
by default. All of them can use alpha as a weight of the loss instead, each from different files.
Every layout comes with the configuration that its reader needs, with absolute paths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.exports.plan import PlannedFile, PullOptions, caption_of, first_role
from curation.exports.rendering import Alpha
from curation.exports.selection import SelectedSample, folder_weights


@dataclass(frozen=True)
class RepeatedFolder:
    """A folder of images that is repeated as a whole, with the folder of its masks."""

    path: Path
    repeats: int
    masks: Path | None


Configure = Callable[[Sequence[RepeatedFolder], PullOptions], tuple[str, str]]


@dataclass(frozen=True)
class TrainerFolders:
    """`images/2_layerloop/ID.png` with `ID.txt`: 2 is how often the folder is repeated.

    Attributes:
        configure: Function that returns name and text of the configuration file.
        mask_beside: Suffix of masks beside the images; "" for a folder `masks/`.
    """

    configure: Configure
    mask_beside: str = ""

    def files(
        self, selected: Sequence[SelectedSample], options: PullOptions
    ) -> Iterator[PlannedFile]:
        """Yield images, captions and masks by weight, and the configuration."""
        folders = []
        masked = options.treatment.alpha is Alpha.mask
        for repeats, group in folder_weights(selected).items():
            name = f"{repeats}_layerloop"
            for item in group:
                yield from self._sample_files(name, item, options)
            masks = options.folder / "masks" / name if masked and not self.mask_beside else None
            folders.append(RepeatedFolder(options.folder / "images" / name, repeats, masks))
        file, text = self.configure(folders, options)
        yield PlannedFile(file, "", text=text.encode())

    def _sample_files(
        self, folder: str, item: SelectedSample, options: PullOptions
    ) -> Iterator[PlannedFile]:
        sample, treatment = item.sample, options.treatment
        role = first_role(sample, options.roles)
        base, layer = f"images/{folder}/{sample.id}", sample.layers[role]
        yield PlannedFile(f"{base}.{treatment.image_type}", sample.id, layer, treatment)
        caption = caption_of(sample, options.roles)
        yield PlannedFile(f"{base}.txt", sample.id, text=f"{caption}\n".encode())
        if treatment.alpha is Alpha.mask:
            mask = (
                f"{base}{self.mask_beside}" if self.mask_beside else f"masks/{folder}/{sample.id}"
            )
            yield PlannedFile(f"{mask}.png", sample.id, layer)


def kohya_config(folders: Sequence[RepeatedFolder], options: PullOptions) -> tuple[str, str]:
    """Return `dataset.toml` for `--dataset_config` of kohya's sd-scripts.

    With alpha kept, `alpha_mask` makes alpha the weight of the loss; with masks,
    `conditioning_data_dir` and the option `--masked_loss` do.
    """
    lines = ["[general]", 'caption_extension = ".txt"', "enable_bucket = true", ""]
    lines += ["[[datasets]]", "resolution = 1024", "batch_size = 1"]
    for folder in folders:
        lines += ["", "[[datasets.subsets]]", f"image_dir = {_quoted(folder.path)}"]
        lines += [f"num_repeats = {folder.repeats}"]
        if folder.masks:
            lines.append(f"conditioning_data_dir = {_quoted(folder.masks)}")
        elif options.treatment.alpha is Alpha.keep:
            lines.append("alpha_mask = true")
    return "dataset.toml", "\n".join(lines) + "\n"


def onetrainer_config(folders: Sequence[RepeatedFolder], _: PullOptions) -> tuple[str, str]:
    """Return `concepts.json` of OneTrainer; masks are `ID-masklabel.png` beside the images."""
    concepts = [
        {
            "__version": 2,
            "name": folder.path.name,
            "path": str(folder.path),
            "enabled": True,
            "include_subdirectories": False,
            "balancing": float(folder.repeats),
            "balancing_strategy": "REPEATS",
            "text": {"prompt_source": "sample"},
        }
        for folder in folders
    ]
    return "concepts.json", json.dumps(concepts, indent=2) + "\n"


def ai_toolkit_config(folders: Sequence[RepeatedFolder], options: PullOptions) -> tuple[str, str]:
    """Return `datasets.yaml` of ai-toolkit, for the key `process` of its configuration."""
    lines = ["datasets:"]
    for folder in folders:
        lines += [f"  - folder_path: {_quoted(folder.path)}", "    caption_ext: txt"]
        lines += [f"    num_repeats: {folder.repeats}", "    resolution: [512, 768, 1024]"]
        if folder.masks:
            lines.append(f"    mask_path: {_quoted(folder.masks)}")
        elif options.treatment.alpha is Alpha.keep:
            lines.append("    alpha_mask: true")
    return "datasets.yaml", "\n".join(lines) + "\n"


def simpletuner_config(folders: Sequence[RepeatedFolder], _: PullOptions) -> tuple[str, str]:
    """Return `multidatabackend.json` of SimpleTuner, whose `repeats` of 0 means once."""
    backends: list[dict[str, Any]] = []
    cache = (folders[0].path.parents[1] if folders else Path()) / "cache"
    for folder in folders:
        name = f"layerloop-{folder.repeats}"
        backend = _backend(name, folder.path, folder.repeats)
        backend |= {"caption_strategy": "textfile", "cache_dir_vae": str(cache / "vae" / name)}
        if folder.masks:
            backend["conditioning_data"] = f"{name}-masks"
            backends.append(
                _backend(f"{name}-masks", folder.masks, folder.repeats)
                | {"dataset_type": "conditioning", "conditioning_type": "mask"}
            )
        backends.append(backend)
    backends.append(
        {
            "id": "layerloop-text",
            "type": "local",
            "dataset_type": "text_embeds",
            "default": True,
            "cache_dir": str(cache / "text"),
        }
    )
    return "multidatabackend.json", json.dumps(backends, indent=2) + "\n"


def _backend(name: str, folder: Path, repeats: int) -> dict[str, Any]:
    return {
        "id": name,
        "type": "local",
        "instance_data_dir": str(folder),
        "resolution": 1024,
        "resolution_type": "pixel_area",
        "repeats": repeats - 1,
    }


def _quoted(path: Path) -> str:
    """Return a path as a JSON string, which TOML and YAML can read."""
    return json.dumps(str(path), ensure_ascii=False)
