"""Drawing: prompts and seeds to transparent layers, through the denoiser, the frozen decoder and the alpha decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from curation.domain import Checkpoint, DrawRequest, LayerRole
from curation.errors import Refused
from curation.layers import without_hidden_colour
from curation.ports import RGBA, Layers, ObjectStore
from training.backbone import Backbone
from training.denoiser import Denoiser, noise_schedule, open_denoiser
from training.parts import Parts, open_parts
from training.presets import Preset
from training.transparency import AlphaDecoder, decode_rgba


def open_generator(checkpoint: Checkpoint, store: ObjectStore) -> Generator:
    """A checkpoint's weights, ready to draw (the door LAYERLOOP_GENERATOR). Raises NotFound, Corrupt, Refused."""
    parts = open_parts(checkpoint, store)
    if parts.base is None:
        hint = "train it with the recipe 'whole'"
        raise Refused(f"checkpoint {checkpoint.id[:12]} has no base model and cannot draw", hint)
    if parts.preset.threads:
        torch.set_num_threads(parts.preset.threads)
    return Generator(parts, open_denoiser(parts.preset, parts.base))


class Generator:
    """A loaded checkpoint that draws single layers.

    The same request gives the same layer, to the bit, whatever else is drawn with it, on one kind of machine with one
    count of threads: the noise comes from the request's own seed, and every batch is filled up to the same size, since
    matrix libraries choose their order of summation by the size of the batch. Other machines may differ in the last
    bits.
    """

    def __init__(self, parts: Parts, denoiser: Denoiser) -> None:
        self.parts, self.denoiser = parts, denoiser

    def draw(self, requests: Sequence[DrawRequest]) -> Sequence[Layers]:
        """One foreground per request, in order: preset.image_size squared, uint8, colour 0 where alpha is 0."""
        size = self.parts.preset.draw_batch
        drawn: list[Layers] = []
        for start in range(0, len(requests), size):
            batch = list(requests[start : start + size])
            filled = batch + batch[-1:] * (size - len(batch))
            layers = draw_layers(
                self.denoiser,
                self.parts.backbone,
                self.parts.transparency.decoder,
                self.parts.preset,
                [request.prompt.text for request in filled],
                [request.seed for request in filled],
            )
            drawn += [{LayerRole.foreground: layer} for layer in layers[: len(batch)]]
        return drawn


@torch.no_grad()
def draw_layers(
    denoiser: Denoiser,
    backbone: Backbone,
    decoder: AlphaDecoder,
    preset: Preset,
    texts: Sequence[str],
    seeds: Sequence[int],
) -> list[RGBA]:
    """One batch: a straight H x W x 4 uint8 layer per text and seed."""
    normal_BCHW = sample_latents(denoiser, preset, texts, seeds)
    rgba_B4HW = decode_rgba(backbone, decoder, denoiser.restore(normal_BCHW))
    pixels_BHW4 = (rgba_B4HW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(without_hidden_colour(pixels)) for pixels in pixels_BHW4]


@torch.no_grad()
def sample_latents(denoiser: Denoiser, preset: Preset, texts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Normalised latents, B x C x h x w, by DDIM (Song et al., 2021, eta 0) with classifier-free guidance.

    e = e(nothing) + guidance * (e(prompt) - e(nothing)), as in Ho and Salimans (2022), equation 6.
    """
    schedule = noise_schedule(preset)
    schedule.set_timesteps(preset.draw_steps)
    side = preset.image_size // preset.stride
    latent_BCHW = torch.stack([_noise(seed, (preset.latent_channels, side, side)) for seed in seeds])
    states_BLD, mask_BL = denoiser.text([*texts, *([""] * len(texts))])
    for time in schedule.timesteps:
        twice_BCHW = torch.cat([latent_BCHW, latent_BCHW])
        prompted, unprompted = denoiser.predict(twice_BCHW, time.expand(len(twice_BCHW)), states_BLD, mask_BL).chunk(2)
        guided = unprompted + preset.guidance * (prompted - unprompted)
        latent_BCHW = schedule.step(guided, time, latent_BCHW).prev_sample
    return latent_BCHW


def _noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Unit noise that a request's seed alone decides."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed % 2**63))
