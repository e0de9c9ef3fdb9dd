"""The same prompts drawn in two ways: with their alpha by a checkpoint, and as opaque pictures that are matted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curation.domain import Checkpoint, DrawRequest, LayerRole, Progress
from curation.images.codec import over
from curation.ports import RGBA, MattingComparison, ObjectStore, Report
from training.checkpoint import LoadedCheckpoint, open_parts
from training.draw_batches import generator_of
from training.generate import open_generator
from training.matting.closed_form import cut_out
from training.matting.segmentation import open_segmenter
from training.matting.trimaps import find_subject, trimap_of
from training.pipelines.worker_generator import precision_on
from training.pretrained.families import find_family
from training.pretrained.loading import load_model, load_pipeline
from training.sample_grid import draw_sheet

GREY = (128, 128, 128)
SHOWN = 24
"""Rows of the sheet."""

Picture = NDArray[np.uint8]


def draw_beside(
    checkpoint: Checkpoint,
    store: ObjectStore,
    requests: Sequence[DrawRequest],
    segmenter: str | None,
    report: Report,
) -> MattingComparison:
    """The door LAYERLOOP_COMPARER. Raises NotFound, Refused.

    The opaque pictures are of the model that the checkpoint was made from, without what it has learnt, from the same
    prompts and seeds; where there is no such model, the checkpoint's own layers over mid-grey, which are the easiest
    that matting can meet. segmenter: a model for the trimap (`open_segmenter`); None is GrabCut.
    """
    parts = open_parts(checkpoint, store)
    drawn = _draw(checkpoint, store, requests, report)
    if parts.preset.model is None:
        opaque, what = (
            [over(layer, GREY) for layer in drawn],
            "the checkpoint's own layers over mid-grey",
        )
    else:
        opaque, what = (
            _draw_opaque(parts, requests, report),
            f"{parts.preset.model} without what was learnt",
        )
    found = open_segmenter(segmenter) if segmenter else None
    cut = _cut(opaque, found.find_subject if found else find_subject, report)
    solid = [np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]) for picture in opaque]
    rows = list(zip(drawn, solid, cut, strict=True))[:SHOWN]
    captions = [(request.prompt.text, "opaque", "matted") for request in requests[:SHOWN]]
    facts = {
        "opaque": what,
        "trimap": found.source if found else "GrabCut",
        "matting": "closed form, multi-level",
    }
    return MattingComparison(drawn, cut, facts, draw_sheet(rows, captions))


def _draw(
    checkpoint: Checkpoint, store: ObjectStore, requests: Sequence[DrawRequest], report: Report
) -> list[RGBA]:
    generator, drawn = open_generator(checkpoint, store), list[RGBA]()
    for start in range(0, len(requests), generator.at_once):
        report(Progress("draw with alpha", start, len(requests)))
        some = requests[start : start + generator.at_once]
        drawn += [layers[LayerRole.foreground] for layers in generator.draw(some)]
    report(Progress("draw with alpha", len(requests), len(requests)))
    return drawn


def _draw_opaque(
    parts: LoadedCheckpoint, requests: Sequence[DrawRequest], report: Report
) -> list[Picture]:
    """Pictures of the model itself, each alone, by the preset's steps and guidance in its size."""
    from diffusers import AutoencoderKL

    preset, device = parts.preset, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision_on(preset, device)
    autoencoder = load_model(
        AutoencoderKL, str(preset.model), "vae", preset.variant, dtype=precision
    )
    kind = find_family(str(preset.family)).pipeline
    pipeline = load_pipeline(
        str(preset.model), kind, preset.variant, vae=autoencoder, dtype=precision
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Picture] = []
    for number, request in enumerate(requests):
        report(Progress("draw opaque", number, len(requests)))
        drawn_B3HW: Tensor = pipeline(
            prompt=request.prompt.text,
            num_inference_steps=preset.draw_steps,
            guidance_scale=preset.guidance,
            height=preset.image_size,
            width=preset.image_size,
            generator=generator_of(request.seed),
            output_type="pt",
        ).images
        levels_HW3 = (drawn_B3HW[0].float() * 255).round().to(torch.uint8).permute(1, 2, 0)
        pictures.append(levels_HW3.cpu().numpy())
    report(Progress("draw opaque", len(requests), len(requests)))
    return pictures


def _cut(
    opaque: Sequence[Picture], find: Callable[[Picture], NDArray[np.bool_]], report: Report
) -> list[RGBA]:
    cut: list[RGBA] = []
    for number, picture in enumerate(opaque):
        report(Progress("matte", number, len(opaque)))
        cut.append(cut_out(picture, trimap_of(find(picture))))
    report(Progress("matte", len(opaque), len(opaque)))
    return cut
