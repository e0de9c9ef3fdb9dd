"""Sampling of layers together: pairs of consistent layers, all generated or some given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curation.domain import GenerationRequest, LayerRole, Prompt
from curation.errors import Refused
from curation.images.codec import decode_layer
from curation.images.pairs import composite
from curation.ports import (
    DEFAULT_OPTIONS,
    RGBA,
    GenerationOptions,
    LayerGenerator,
    Layers,
    ObjectStore,
)
from training.checkpoint import LoadedCheckpoint
from training.data.buckets import Size
from training.data.letterbox import letterbox
from training.draw_batches import (
    is_pair_request,
    noise_settings,
    padded_batches,
    starting_noise,
    to_layers,
)
from training.generation_environment import describe_environment
from training.layers.model import LayeredDenoiser
from training.presets.preset import Preset
from training.transparency.codec import adjust, decode_rgba
from training.transparency.padding import pad_colors


@dataclass(frozen=True)
class LayerRequest:
    """A layer to sample: its role, its text, and its clean latent if the layer is given."""

    role: str
    text: str
    given_CHW: Tensor | None = None  # normalized


class LayersGenerator:
    """A checkpoint with the part "layers": generates pairs, and delegates single layers.

    As with single layers, a result depends bit for bit on prompt, seed and options only, on one
    machine: noise is seeded by the request, in the order of the roles, and batches are filled up.
    """

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        single_generator: LayerGenerator,
        layered: LayeredDenoiser,
        store: ObjectStore,
        *,
        joint: bool = True,
    ) -> None:
        """Wrap a checkpoint.

        Args:
            checkpoint: The loaded checkpoint.
            single_generator: Generates single layers with the same base.
            layered: The base with layer adapters.
            store: Where given layers are stored.
            joint: Whether layers attend to each other.
        """
        self.parts, self.preset, self.store = checkpoint, checkpoint.preset, store
        self.single_generator, self.layered, self.joined = single_generator, layered, joint
        self.batch_size = single_generator.batch_size

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        """Generate a foreground per request or, if it requests a pair, all layers of a pair.

        A layer without its own text uses the whole prompt. Layers are preset.image_size squared, or
        of `options.size` over a pretrained model. Given layers are letterboxed to that size, and
        unchanged if they have it. Generated backgrounds are opaque. The blended layer is always the
        foreground over the background: an adapter for the role "blended" only helps the other two
        to agree, and its output is dropped, since a pair must composite to its blended image.

        Args:
            requests: Prompts and seeds.
            options: Changes of the preset's sampling settings.

        Returns:
            Layers by role, per request in order.

        Raises:
            NotFound: A given layer is not stored.
            Refused: An option is not supported.
        """
        # Separate requests for pairs from those for single layers.
        pairs = [
            index
            for index, request in enumerate(requests)
            if is_pair_request(request.prompt, options)
        ]
        single = [index for index in range(len(requests)) if index not in set(pairs)]
        generated: dict[int, Layers] = {}
        if single:
            layers = self.single_generator.generate([requests[index] for index in single], options)
            generated |= dict(zip(single, layers, strict=True))
        if pairs:
            layers = self._generate_pairs([requests[index] for index in pairs], options)
            generated |= dict(zip(pairs, layers, strict=True))
        return [generated[index] for index in range(len(requests))]

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        """Return the settings of single layers, with layers and attention. Raises Refused."""
        attention = "joint" if self.joined else "apart"
        settings = {"layers": " + ".join(self.layered.roles), "attention": attention}
        settings["guidance"] = str(self._guidance(options))
        settings |= {f"given {role}": sha256 for role, sha256 in options.given.items()}
        return {**self.single_generator.describe(replace(options, given={})), **settings}

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        """Return noise (of a pair that of all layers), precision, batch, device and versions."""
        if not pair:
            return self.single_generator.environment(options)
        preset, size = self._preset_and_size(options)
        latent = [side // preset.stride for side in size]
        shape = len(self.layered.roles), preset.latent_channels, *latent
        parameter = next(self.layered.denoiser.parameters())
        return noise_settings(shape, torch.float32) | (
            describe_environment(parameter.dtype, parameter.device, self.batch_size)
        )

    def _generate_pairs(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions
    ) -> list[Layers]:
        """Generate pairs, with given layers in place of generated ones."""
        preset, size = self._preset_and_size(options)
        given = {
            LayerRole(role): self._fetch(sha256, size) for role, sha256 in options.given.items()
        }
        clean = {role: self._encode(layer) for role, layer in given.items()}
        generated: list[Layers] = []
        for batch, filled in padded_batches(requests, preset.draw_batch):
            layer_requests = [self._layer_requests(request.prompt, clean) for request in filled]
            seeds = [request.seed for request in filled]
            negative = options.negative or ""
            latent_PLCHW = sample_layers(
                self.layered, preset, layer_requests, seeds, negative, joint=self.joined, size=size
            )
            # Given layers are returned as they are, without a round trip through the autoencoder.
            decoded = self._decode(latent_PLCHW, size)
            generated += [_complete({**layers, **given}) for layers in decoded[: len(batch)]]
        return generated

    def _layer_requests(
        self, prompt: Prompt, clean: Mapping[LayerRole, Tensor]
    ) -> list[LayerRequest]:
        texts = {LayerRole.foreground: prompt.foreground, LayerRole.background: prompt.background}
        roles = [LayerRole(role) for role in self.layered.roles]
        return [
            LayerRequest(role, texts.get(role) or prompt.text, clean.get(role)) for role in roles
        ]

    @torch.no_grad()
    def _decode(self, latent_PLCHW: Tensor, size: Size) -> list[dict[LayerRole, RGBA]]:
        """Decode the layers of each image, preset.draw_batch at a time."""
        decoder, roles = self.parts.transparency.decoder, self.layered.roles
        rgba: list[RGBA] = []
        for latent_BCHW in torch.split(latent_PLCHW.flatten(0, 1), self.preset.draw_batch):
            unscaled_BCHW = self.layered.denoiser.denormalize(latent_BCHW)
            rgba_B4HW = decode_rgba(self.parts.autoencoder, decoder, unscaled_BCHW, size=size)
            # Only foregrounds have transparency.
            opaque_B = torch.tensor(
                [_is_opaque(roles[(len(rgba) + row) % len(roles)]) for row in range(len(rgba_B4HW))]
            )
            rgba_B4HW[opaque_B.to(rgba_B4HW.device), 3] = 1
            rgba += to_layers(rgba_B4HW)
        # Group the rows by image again.
        layer_count = len(roles)
        return [
            {LayerRole(role): rgba[start + index] for index, role in enumerate(roles)}
            for start in range(0, len(rgba), layer_count)
        ]

    def _fetch(self, sha256: str, size: Size) -> RGBA:
        layer = decode_layer(self.store.get(sha256))
        return layer if layer.shape[:2] == size else letterbox(layer, size)

    @torch.no_grad()
    def _encode(self, layer: RGBA) -> Tensor:
        """Encode a given layer as a clean latent, C x h x w."""
        rgba_14HW = torch.from_numpy(layer.copy()).permute(2, 0, 1)[None].float() / 255
        rgba_14HW = rgba_14HW.to(self.parts.autoencoder.device)
        adjusted = adjust(
            self.parts.autoencoder,
            self.parts.transparency.encoder,
            rgba_14HW[:, 3:],
            pad_colors(rgba_14HW),
        )
        return self.layered.denoiser.normalize(adjusted)[0]

    def _preset_and_size(self, options: GenerationOptions) -> tuple[Preset, Size]:
        """Apply the options to the preset, and return height and width. Raises Refused."""
        preset, side = self.preset, self.preset.image_size
        width, height = options.size or (side, side)
        other_size = options.size is not None and (width % preset.stride or height % preset.stride)
        if preset.family is None:
            other_size = (width, height) != (side, side)
        unsupported = {
            "this size": other_size or options.aspect not in {None, 1},
            "other samplers than ddim": options.sampler not in {None, "ddim"},
            "a starting image": options.image is not None,
            "upscaling": options.upscale != 1,
        }
        for name, used in unsupported.items():
            if used:
                raise Refused(f"generating layers does not support {name}", "leave that option out")
        if unknown := sorted(set(options.given) - set(self.layered.roles)):
            raise Refused(
                f"a layer '{unknown[0]}' cannot be given",
                f"give one of {', '.join(self.layered.roles)}",
            )
        if {LayerRole.foreground, LayerRole.background} <= set(options.given):
            raise Refused("both layers are given: there is nothing to generate", "give one of them")
        steps = options.steps or preset.draw_steps
        changed = replace(preset, draw_steps=steps, layers_guidance=self._guidance(options))
        return changed, (height, width)

    def _guidance(self, options: GenerationOptions) -> float:
        """Return the guidance of the options or the preset.

        With a negative prompt it is the preset's guidance for single layers, since that for layers
        may be 1, at which a negative prompt has no effect.
        """
        if options.guidance is not None:
            return options.guidance
        return self.preset.guidance if options.negative else self.preset.layers_guidance


@torch.no_grad()
def sample_layers(
    layered: LayeredDenoiser,
    preset: Preset,
    images: Sequence[Sequence[LayerRequest]],
    seeds: Sequence[int],
    negative: str = "",
    *,
    joint: bool = True,
    size: Size | None = None,
) -> Tensor:
    """Sample normalized latents of layers, P x L x C x h x w, by DDIM with guidance.

    Given layers enter every step as clean latents at timestep 0, and are returned unchanged (paper,
    section 3.3). Classifier-free guidance applies to all layers together: e = e(negative) +
    layers_guidance * (e(texts) - e(negative)). With layers_guidance 1 only e(texts) is computed.

    Args:
        layered: The denoiser with layer adapters.
        preset: Steps, layers_guidance and the default size.
        images: The layers of each image; all images have the same roles in the same order, any
            number of them, and a role may be repeated.
        seeds: One RNG seed per image.
        negative: Negative prompt of all layers.
        joint: Whether layers attend to each other.
        size: Height and width in pixels, multiples of the stride; by default the preset's square.
    """
    device = next(layered.denoiser.parameters()).device
    schedule = layered.denoiser.schedule()
    schedule.set_timesteps(preset.draw_steps)
    # Initial noise of all layers of an image comes from its seed.
    roles = [layer.role for layer in images[0]]
    height, width = (
        side // preset.stride for side in size or (preset.image_size, preset.image_size)
    )
    shape = (len(roles), preset.latent_channels, height, width)
    latent_PLCHW = torch.stack([starting_noise(seed, shape) for seed in seeds]).to(device)
    # Given layers, by image and layer.
    given_PL = torch.tensor(
        [[layer.given_CHW is not None for layer in layers] for layers in images], device=device
    )
    clean_PLCHW = latent_PLCHW.clone()
    for image, layers in enumerate(images):
        for index, layer in enumerate(layers):
            if layer.given_CHW is not None:
                clean_PLCHW[image, index] = layer.given_CHW
    given_PL111 = given_PL[..., None, None, None]
    # Without guidance the negative prompt is not needed, and half of the computation is saved.
    texts = [layer.text for layers in images for layer in layers]
    passes = 1 if preset.layers_guidance == 1 else 2
    texts += [negative] * (passes - 1) * len(texts)
    conditions = layered.denoiser.encode(texts, _sizes(size, len(texts)))
    for time in schedule.timesteps:
        # Given layers are clean in every step.
        latent_PLCHW = torch.where(given_PL111, clean_PLCHW, latent_PLCHW)
        time_B = torch.where(given_PL, 0, time.to(device)).flatten()
        rows_BCHW = latent_PLCHW.flatten(0, 1)
        batch_BCHW, batch_B = (torch.cat([values] * passes) for values in (rows_BCHW, time_B))
        predicted_BCHW = layered.predict(batch_BCHW, batch_B, conditions, roles, joined=joint)
        prompted, *others = predicted_BCHW.chunk(passes)
        for unprompted in others:
            prompted = unprompted + preset.layers_guidance * (prompted - unprompted)
        rows_BCHW = schedule.step(prompted, time, rows_BCHW).prev_sample
        latent_PLCHW = rows_BCHW.unflatten(0, given_PL.shape)
    return torch.where(given_PL111, clean_PLCHW, latent_PLCHW)


def _complete(layers: Mapping[LayerRole, RGBA]) -> Layers:
    """Set the blended layer to the foreground over the background."""
    foreground, background = layers[LayerRole.foreground], layers[LayerRole.background]
    return {
        LayerRole.foreground: foreground,
        LayerRole.background: background,
        LayerRole.blended: composite(foreground, background),
    }


def _is_opaque(role: str) -> bool:
    return role != LayerRole.foreground


def _sizes(size: Size | None, count: int) -> Tensor | None:
    """Return SDXL's size conditioning, uncropped; None for the preset's own size."""
    return None if size is None else torch.tensor([[*size, 0.0, 0.0, *size]]).repeat(count, 1)
