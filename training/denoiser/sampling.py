"""Sampling with the built-in denoiser: from prompts and seeds to layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from curation.domain import GenerationRequest, LayerRole
from curation.errors import Refused
from curation.ports import DEFAULT_OPTIONS, RGBA, GenerationOptions, Layers
from training.checkpoint import LoadedCheckpoint
from training.denoiser.denoiser import Denoiser
from training.draw_batches import (
    is_pair_request,
    noise_settings,
    padded_batches,
    starting_noise,
    to_layers,
)
from training.generation_environment import describe_environment
from training.presets.preset import Preset
from training.transparency.autoencoder import Autoencoder
from training.transparency.codec import decode_rgba
from training.transparency.networks import AlphaDecoder


class BuiltinGenerator:
    """A loaded checkpoint with a built-in denoiser, which generates single layers.

    The same request gives a bit-identical layer in any batch, on one kind of
    machine with one number of threads: the noise is seeded by the request, and every batch is
    filled up to the same size, since matrix libraries choose their order of summation by batch
    size. Other machines may differ in the last bits.
    """

    def __init__(
        self, checkpoint: LoadedCheckpoint, denoiser: Denoiser, device: torch.device | str = "cpu"
    ) -> None:
        """Move the networks of a checkpoint to a device.

        Args:
            checkpoint: The loaded checkpoint.
            denoiser: Its base.
            device: Where to generate.
        """
        self.parts, self.denoiser = checkpoint, denoiser.to(device)
        self.batch_size = checkpoint.preset.draw_batch
        for network in (checkpoint.autoencoder, checkpoint.transparency):
            network.to(device)

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        """Generate one foreground per request, in order.

        Args:
            requests: Prompts and seeds.
            options: Changes of the preset's sampling settings.

        Returns:
            uint8 images of preset.image_size squared, with color 0 where alpha is 0.

        Raises:
            Refused: A prompt requests several layers (training.layers generates these), or an
                option is not supported.
        """
        generated: list[Layers] = []
        preset = self._preset(options)
        if any(is_pair_request(request.prompt, options) for request in requests):
            hint = "train it with the recipe 'pairs', or 'layers' from this one"
            raise Refused("this checkpoint generates single layers: it has no part 'layers'", hint)
        # The last batch is filled up, and the surplus layers are dropped.
        for batch, filled in padded_batches(requests, preset.draw_batch):
            layers = generate_layers(
                self.denoiser,
                self.parts.autoencoder,
                self.parts.transparency.decoder,
                preset,
                [request.prompt.text for request in filled],
                [request.seed for request in filled],
                options.negative or "",
            )
            generated += [{LayerRole.foreground: layer} for layer in layers[: len(batch)]]
        return generated

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        """Return sampler, steps, guidance and size. Raises Refused as `generate`."""
        preset = self._preset(options)
        side = str(preset.image_size)
        return {
            "sampler": "ddim",
            "steps": str(preset.draw_steps),
            "guidance": str(preset.guidance),
            "size": f"{side}x{side}",
        }

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        """Return noise, precision, batch, device and versions. Raises Refused as `generate`."""
        del pair  # it generates none
        preset = self._preset(options)
        side, parameter = preset.image_size // preset.stride, next(self.denoiser.parameters())
        return noise_settings((preset.latent_channels, side, side), torch.float32) | (
            describe_environment(parameter.dtype, parameter.device, self.batch_size)
        )

    def _preset(self, options: GenerationOptions) -> Preset:
        """Apply the options to the preset. Raises Refused."""
        preset, side = self.parts.preset, self.parts.preset.image_size
        # Options that only pretrained models support.
        fixed = {
            "other sizes": options.size not in {None, (side, side)}
            or options.aspect not in {None, 1},
            "other samplers": options.sampler not in {None, "ddim"},
            "a starting image": options.image is not None,
            "upscaling": options.upscale != 1,
        }
        for name, used in fixed.items():
            if used:
                hint = "checkpoints of the presets sd15, sd21 and sdxl do"
                raise Refused(
                    f"checkpoints of the preset {preset.name!r} do not support {name}", hint
                )
        steps, guidance = options.steps or preset.draw_steps, preset.guidance
        return replace(
            preset,
            draw_steps=steps,
            guidance=guidance if options.guidance is None else options.guidance,
        )


@torch.no_grad()
def generate_layers(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    decoder: AlphaDecoder,
    preset: Preset,
    texts: Sequence[str],
    seeds: Sequence[int],
    negative: str = "",
) -> list[RGBA]:
    """Generate a straight H x W x 4 uint8 layer per text and seed.

    Args:
        denoiser: The denoiser, on its device.
        autoencoder: The autoencoder.
        decoder: The decoder of color and alpha.
        preset: Image size, steps, guidance and batch size.
        texts: One prompt per layer.
        seeds: One RNG seed per layer.
        negative: The negative prompt; empty for the unconditional one.
    """
    layers: list[RGBA] = []
    for start in range(0, len(texts), preset.draw_batch):
        batch = slice(start, start + preset.draw_batch)
        normalized_BCHW = sample_latents(denoiser, preset, texts[batch], seeds[batch], negative)
        layers += to_layers(
            decode_rgba(autoencoder, decoder, denoiser.denormalize(normalized_BCHW))
        )
    return layers


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    preset: Preset,
    texts: Sequence[str],
    seeds: Sequence[int],
    negative: str = "",
) -> Tensor:
    """Sample normalized latents, B x C x h x w, by DDIM with classifier-free guidance.

    DDIM is used with eta 0 (Song et al., 2021), and guidance as in Ho and Salimans (2022), equation
    6: e = e(negative) + guidance * (e(prompt) - e(negative)).

    Args:
        denoiser: The denoiser, on its device.
        preset: Image size, steps and guidance.
        texts: One prompt per latent.
        seeds: One RNG seed per latent.
        negative: The negative prompt; empty for the unconditional one.
    """
    # The initial noise depends on the seed alone, not on the batch.
    device = next(denoiser.parameters()).device
    schedule = denoiser.schedule()
    schedule.set_timesteps(preset.draw_steps)
    side = preset.image_size // preset.stride
    shape = preset.latent_channels, side, side
    latent_BCHW = torch.stack([starting_noise(seed, shape) for seed in seeds]).to(device)
    # One batch for both predictions of guidance: prompts first, then negative prompts.
    conditions = denoiser.encode([*texts, *([negative] * len(texts))])
    for time in schedule.timesteps:
        # Guidance extrapolates from the negative to the prompted prediction.
        doubled_BCHW = torch.cat([latent_BCHW, latent_BCHW])
        predicted_BCHW = denoiser.predict(
            doubled_BCHW, time.expand(len(doubled_BCHW)).to(device), conditions
        )
        prompted, unprompted = predicted_BCHW.chunk(2)
        guided = unprompted + preset.guidance * (prompted - unprompted)
        latent_BCHW = schedule.step(guided, time, latent_BCHW).prev_sample
    return latent_BCHW
