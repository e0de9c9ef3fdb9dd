"""Entry point of generation: open a checkpoint as a generator of layers."""

from __future__ import annotations

import torch

from curation.domain import Checkpoint
from curation.errors import Refused
from curation.ports import LayerGenerator, ObjectStore
from training.checkpoint import open_parts
from training.denoiser.denoiser import Denoiser
from training.denoiser.factory import open_denoiser
from training.denoiser.sampling import Generator
from training.denoiser.stable_diffusion import StableDiffusion
from training.layers.model import open_layers
from training.layers.sampling import LayersGenerator
from training.pipelines.worker_generator import PipelineGenerator, precision_on
from training.synthesis.generator import PairSynthesis
from training.synthesis.inpainting import open_inpainter


def open_generator(
    checkpoint: Checkpoint, store: ObjectStore, *, joined: bool = True
) -> LayerGenerator:
    """A checkpoint's weights, ready to draw (the door LAYERLOOP_GENERATOR). Raises NotFound, Corrupt, Refused.

    On a GPU where there is one. A pretrained model draws through the pipelines that others can use without Layerloop.
    joined: without it layers do not see each other, which shows what seeing each other is worth. Where the preset names
    an inpainter, pairs are completed by it.
    """
    parts = open_parts(checkpoint, store)
    if parts.base is None and not parts.modes:
        hint = "train it with the recipe 'whole'"
        raise Refused(f"checkpoint {checkpoint.id[:12]} has no base model and cannot draw", hint)
    if parts.preset.threads:
        torch.set_num_threads(parts.preset.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    alone: LayerGenerator
    if parts.preset.family is not None:
        alone = PipelineGenerator(parts, store, device)
    else:
        assert parts.base is not None  # noqa: S101 - released modes are of pretrained families
        alone = Generator(parts, open_denoiser(parts.preset, *parts.base), device)
    if parts.preset.inpainter is not None:
        precision = precision_on(parts.preset, device)
        inpainter = open_inpainter(parts.preset.inpainter, parts.preset.variant, device, precision)
        return PairSynthesis(alone, inpainter, parts.preset, store)
    if parts.layers is None:
        return alone
    denoiser: Denoiser
    if isinstance(alone, Generator):
        denoiser = alone.denoiser
    else:
        denoiser = StableDiffusion(parts.preset, taught=alone.pipe.pipeline)
    layered = (
        open_layers(denoiser, *parts.layers).to(device, next(denoiser.parameters()).dtype).eval()
    )
    return LayersGenerator(parts, alone, layered, store, joined=joined)
