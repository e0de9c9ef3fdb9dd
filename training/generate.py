"""The door of drawing: a checkpoint's weights as a generator of layers."""

from __future__ import annotations

import torch

from curation.domain import Checkpoint
from curation.errors import Refused
from curation.ports import LayerGenerator, ObjectStore
from training.denoiser.denoiser import Denoiser
from training.denoiser.drawing import Generator
from training.denoiser.opening import open_denoiser
from training.denoiser.stable_diffusion import StableDiffusion
from training.layering.drawing import LayersGenerator
from training.layering.layered import open_layers
from training.parts import open_parts
from training.pipelines.generator import PipelineGenerator


def open_generator(checkpoint: Checkpoint, store: ObjectStore, *, joined: bool = True) -> LayerGenerator:
    """A checkpoint's weights, ready to draw (the door LAYERLOOP_GENERATOR). Raises NotFound, Corrupt, Refused.

    On a GPU where there is one. A pretrained model draws through the pipelines that others can use without Layerloop.
    joined: without it layers do not see each other, which shows what seeing each other is worth.
    """
    parts = open_parts(checkpoint, store)
    if parts.base is None and not parts.modes:
        hint = "train it with the recipe 'whole'"
        raise Refused(f"checkpoint {checkpoint.id[:12]} has no base model and cannot draw", hint)
    if parts.preset.threads:
        torch.set_num_threads(parts.preset.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    alone: LayerGenerator
    if parts.preset.family is None:
        assert parts.base is not None  # noqa: S101 - released modes are of pretrained families
        denoiser: Denoiser = open_denoiser(parts.preset, *parts.base)
        alone = Generator(parts, denoiser, device)
        if parts.layers is None:
            return alone
    else:
        alone = PipelineGenerator(parts, store, device)
        if parts.layers is None:
            return alone
        denoiser = StableDiffusion(parts.preset, taught=alone.pipe.pipeline)
    layered = open_layers(denoiser, *parts.layers).to(device, next(denoiser.parameters()).dtype).eval()
    return LayersGenerator(parts, alone, layered, store, joined=joined)
