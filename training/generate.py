"""Entry point of generation: open a checkpoint as a generator of layers."""

from __future__ import annotations

import torch

from curation.domain import Checkpoint
from curation.errors import Refused
from curation.ports import LayerGenerator, ObjectStore
from training.checkpoint import load_checkpoint
from training.denoiser.denoiser import Denoiser
from training.denoiser.factory import load_denoiser
from training.denoiser.sampling import BuiltinGenerator
from training.denoiser.stable_diffusion import StableDiffusion
from training.layers.model import load_layered_denoiser
from training.layers.sampling import LayersGenerator
from training.pipelines.worker_generator import PipelineGenerator, compute_dtype
from training.synthesis.generator import InpaintingPairGenerator
from training.synthesis.inpainting import open_inpainter


def load_generator(
    checkpoint: Checkpoint, store: ObjectStore, *, joined: bool = True
) -> LayerGenerator:
    """Open a checkpoint as a generator of layers (the port LAYERLOOP_GENERATOR).

    It runs on a GPU if there is one. Pretrained models generate through the public pipelines
    (training.pipelines). If the preset names an inpainter, pairs are completed by inpainting.

    Args:
        checkpoint: A checkpoint with a base, or with the weights of layer modes.
        store: The store that holds its files.
        joined: False turns off the attention between layers, to measure its effect.

    Raises:
        NotFound: A file or model does not exist.
        Corrupt: A file's content does not match its sha256.
        Refused: The checkpoint has no base model.
    """
    parts = load_checkpoint(checkpoint, store)
    if parts.base is None and not parts.modes:
        hint = "train it with the recipe 'whole'"
        raise Refused(f"checkpoint {checkpoint.id[:12]} has no base model to generate with", hint)
    if parts.preset.threads:
        torch.set_num_threads(parts.preset.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # The generator of single layers: a diffusers pipeline, or the built-in denoiser.
    single_generator: LayerGenerator
    if parts.preset.family is not None:
        single_generator = PipelineGenerator(parts, store, device)
    else:
        assert parts.base is not None  # noqa: S101 - released modes are of pretrained families
        single_generator = BuiltinGenerator(parts, load_denoiser(parts.preset, *parts.base), device)
    if parts.preset.inpainter is not None:
        # An inpainter takes over pairs; no layer weights are needed for it.
        precision = compute_dtype(parts.preset, device)
        inpainter = open_inpainter(parts.preset.inpainter, parts.preset.variant, device, precision)
        return InpaintingPairGenerator(single_generator, inpainter, parts.preset, store)
    if parts.layers is None:
        return single_generator
    # Layers generated together run the same denoiser with an adapter per role.
    denoiser: Denoiser
    if isinstance(single_generator, BuiltinGenerator):
        denoiser = single_generator.denoiser
    else:
        denoiser = StableDiffusion(parts.preset, pipeline=single_generator.pipe.pipeline)
    layered = (
        load_layered_denoiser(denoiser, *parts.layers)
        .to(device, next(denoiser.parameters()).dtype)
        .eval()
    )
    return LayersGenerator(parts, single_generator, layered, store, joint=joined)
