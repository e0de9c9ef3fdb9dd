"""Layouts for trainers of layered images: the blended image, then its layers, lowest first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from curation.domain import LayerRole
from curation.exports.plan import PlannedFile, PullOptions
from curation.exports.selection import SelectedSample, folder_weights

LAYER_ORDER = (LayerRole.background, LayerRole.foreground)
"""The layers of a pair, lowest first."""


class MusubiLayout:
    """musubi-tuner with `--model_version layered`: `ID.png`, `ID_0.png`, `ID_1.png`, `ID.txt`.

    `dataset.toml` sets `multiple_target`, for `--dataset_config`.
    """

    def files(
        self, selected: Sequence[SelectedSample], options: PullOptions
    ) -> Iterator[PlannedFile]:
        """Yield images and captions by weight, and the configuration."""
        lines = ["[general]", "resolution = [1024, 1024]", 'caption_extension = ".txt"']
        lines += ["batch_size = 1", "enable_bucket = true", "bucket_no_upscale = true"]
        for repeats, group in folder_weights(selected).items():
            name = f"{repeats}_layerloop"
            for item in group:
                yield from _layer_files(f"images/{name}/{item.sample.id}", item, options)
                text = f"{item.sample.caption_for()}\n".encode()
                yield PlannedFile(f"images/{name}/{item.sample.id}.txt", item.sample.id, text=text)
            images = json.dumps(str(options.folder / "images" / name), ensure_ascii=False)
            cache = json.dumps(str(options.folder / "cache" / name), ensure_ascii=False)
            lines += ["", "[[datasets]]", f"image_directory = {images}"]
            lines += [f"cache_directory = {cache}", "multiple_target = true"]
            lines += [f"num_repeats = {repeats}"]
        yield PlannedFile("dataset.toml", "", text=("\n".join(lines) + "\n").encode())


class DiffSynthLayout:
    """DiffSynth-Studio: `metadata.json` with a list of layers for each sample.

    `--data_file_keys image,layer_input_image --extra_inputs layer_num,layer_input_image` reads it.
    The list begins with the blended image, since the model generates `layer_num` + 1 images. A
    sample of weight 2 has two rows.
    """

    def files(
        self, selected: Sequence[SelectedSample], options: PullOptions
    ) -> Iterator[PlannedFile]:
        """Yield the images, then the metadata."""
        rows = []
        ending = options.treatment.image_type
        for repeats, group in folder_weights(selected).items():
            for item in group:
                base = f"images/{item.sample.id}"
                yield from _layer_files(base, item, options)
                blended = f"{base}.{ending}"
                layers = [f"{base}_{index}.{ending}" for index in range(len(LAYER_ORDER))]
                row = {
                    "prompt": item.sample.caption_for(),
                    "image": [blended, *layers],
                    "layer_input_image": blended,
                    "layer_num": len(layers),
                }
                rows += [row] * repeats
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
        yield PlannedFile("metadata.json", "", text=text.encode())


def _layer_files(base: str, item: SelectedSample, options: PullOptions) -> Iterator[PlannedFile]:
    """Yield the blended image and its numbered layers."""
    layers, ending = item.sample.layers, options.treatment.image_type
    blended = layers[LayerRole.blended]
    yield PlannedFile(f"{base}.{ending}", item.sample.id, blended, options.treatment)
    for index, role in enumerate(LAYER_ORDER):
        path = f"{base}_{index}.{ending}"
        yield PlannedFile(path, item.sample.id, layers[role], options.treatment)
