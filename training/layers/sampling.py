"""Drawing layers together: pairs for prompts that ask for them, each layer to fit the others, drawn or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curation.domain import DrawRequest, LayerRole, Prompt
from curation.errors import Refused
from curation.images.codec import decode_layer
from curation.images.pairs import composite
from curation.ports import PLAIN, RGBA, DrawOptions, LayerGenerator, Layers, ObjectStore
from training.checkpoint import LoadedCheckpoint
from training.data.buckets import Size
from training.data.dataset import letterbox
from training.draw_batches import as_layers, asks_for_layers, batches, generator_of
from training.layers.model import LayeredDenoiser
from training.presets.preset import Preset
from training.transparency.codec import adjust, decode_rgba
from training.transparency.padding import pad_colours


@dataclass(frozen=True)
class LayerRequest:
    """One layer of a picture that is drawn: its role, its own text, and its clean latent where the layer is given."""

    role: str
    text: str
    clean_CHW: Tensor | None = None  # normalised, as the denoiser knows latents


class LayersGenerator:
    """A checkpoint with the part "layers": draws pairs together, and leaves prompts for single layers to another.

    As with single layers, a request's bits depend on its prompt, its seed and the options alone, on one machine: its
    layers' noise comes from its seed, in the order of the roles, and batches are filled up.
    """

    def __init__(
        self,
        parts: LoadedCheckpoint,
        alone: LayerGenerator,
        layered: LayeredDenoiser,
        store: ObjectStore,
        *,
        joined: bool = True,
    ) -> None:
        """alone: what draws single layers, with the same base. joined: without it layers do not see each other."""
        self.parts, self.preset, self.store = parts, parts.preset, store
        self.alone, self.layered, self.joined = alone, layered, joined
        self.at_once = alone.at_once

    def draw(
        self, requests: Sequence[DrawRequest], options: DrawOptions = PLAIN
    ) -> Sequence[Layers]:
        """A foreground per request or, where it asks for a pair, foreground, background and blended, in order.

        A layer whose prompt has no text of its own is drawn from the whole one. Layers are preset.image_size squared,
        or of `options.size` over a pretrained model; given ones are letterboxed to that, and kept to the bit where they
        fit. A drawn background is opaque, and the blended layer is the foreground over the background whatever else
        was drawn: an adapter of that role helps the other two to agree, and what it draws is dropped, since layers that
        do not give their blended picture are of no use. Raises NotFound, Refused.
        """
        pairs = [
            place
            for place, request in enumerate(requests)
            if asks_for_layers(request.prompt, options)
        ]
        lone = [place for place in range(len(requests)) if place not in set(pairs)]
        drawn: dict[int, Layers] = {}
        if lone:
            drawn |= dict(
                zip(
                    lone, self.alone.draw([requests[place] for place in lone], options), strict=True
                )
            )
        if pairs:
            drawn |= dict(
                zip(pairs, self._draw([requests[place] for place in pairs], options), strict=True)
            )
        return [drawn[place] for place in range(len(requests))]

    def describe(self, options: DrawOptions) -> Mapping[str, str]:
        """As of single layers, and which layers are drawn together, and whether they see each other. Raises Refused."""
        exchange = "joint" if self.joined else "apart"
        told = {"layers": " + ".join(self.layered.roles), "attention": exchange}
        told["guidance"] = str(self._guidance(options))
        told |= {f"given {role}": sha256 for role, sha256 in options.given.items()}
        return {**self.alone.describe(replace(options, given={})), **told}

    def _draw(self, requests: Sequence[DrawRequest], options: DrawOptions) -> list[Layers]:
        preset, size = self._settle(options)
        given = {
            LayerRole(role): self._fetch(sha256, size) for role, sha256 in options.given.items()
        }
        clean = {role: self._encode(layer) for role, layer in given.items()}
        drawn: list[Layers] = []
        for batch, filled in batches(requests, preset.draw_batch):
            wishes = [self._wish(request.prompt, clean) for request in filled]
            seeds = [request.seed for request in filled]
            negative = options.negative or ""
            latent_PLCHW = sample_layers(
                self.layered, preset, wishes, seeds, negative, joined=self.joined, size=size
            )
            layers = self._decode(latent_PLCHW, size)
            drawn += [_complete({**some, **given}) for some in layers[: len(batch)]]
        return drawn

    def _wish(self, prompt: Prompt, clean: Mapping[LayerRole, Tensor]) -> list[LayerRequest]:
        texts = {LayerRole.foreground: prompt.foreground, LayerRole.background: prompt.background}
        roles = [LayerRole(role) for role in self.layered.roles]
        return [
            LayerRequest(role, texts.get(role) or prompt.text, clean.get(role)) for role in roles
        ]

    @torch.no_grad()
    def _decode(self, latent_PLCHW: Tensor, size: Size) -> list[dict[LayerRole, RGBA]]:
        """The layers of each picture; at most preset.draw_batch of them are decoded at a time."""
        decoder, roles = self.parts.transparency.decoder, self.layered.roles
        rgba: list[RGBA] = []
        for latent_BCHW in torch.split(latent_PLCHW.flatten(0, 1), self.preset.draw_batch):
            unscaled_BCHW = self.layered.denoiser.restore(latent_BCHW)
            rgba_B4HW = decode_rgba(self.parts.backbone, decoder, unscaled_BCHW, size=size)
            opaque_B = torch.tensor(
                [_is_opaque(roles[(len(rgba) + row) % len(roles)]) for row in range(len(rgba_B4HW))]
            )
            rgba_B4HW[opaque_B.to(rgba_B4HW.device), 3] = 1
            rgba += as_layers(rgba_B4HW)
        count = len(roles)
        return [
            {LayerRole(role): rgba[start + place] for place, role in enumerate(roles)}
            for start in range(0, len(rgba), count)
        ]

    def _fetch(self, sha256: str, size: Size) -> RGBA:
        layer = decode_layer(self.store.get(sha256))
        return layer if layer.shape[:2] == size else letterbox(layer, size)

    @torch.no_grad()
    def _encode(self, layer: RGBA) -> Tensor:
        """The clean latent of a given layer, C x h x w."""
        rgba_14HW = torch.from_numpy(layer.copy()).permute(2, 0, 1)[None].float() / 255
        rgba_14HW = rgba_14HW.to(self.parts.backbone.device)
        adjusted = adjust(
            self.parts.backbone,
            self.parts.transparency.encoder,
            rgba_14HW[:, 3:],
            pad_colours(rgba_14HW),
        )
        return self.layered.denoiser.normalise(adjusted)[0]

    def _settle(self, options: DrawOptions) -> tuple[Preset, Size]:
        """The preset with what the options change, and height and width. Raises Refused."""
        preset, side = self.preset, self.preset.image_size
        width, height = options.size or (side, side)
        sizes = options.size is not None and (width % preset.stride or height % preset.stride)
        if preset.family is None:
            sizes = (width, height) != (side, side)
        cannot = {
            "this size": sizes or options.aspect not in {None, 1},
            "other samplers than ddim": options.sampler not in {None, "ddim"},
            "an image to begin from": options.image is not None,
            "enlarging": options.upscale != 1,
        }
        for what, wanted in cannot.items():
            if wanted:
                raise Refused(f"layers are drawn together without {what}", "leave that option out")
        if unknown := sorted(set(options.given) - set(self.layered.roles)):
            raise Refused(
                f"a layer '{unknown[0]}' cannot be given",
                f"give one of {', '.join(self.layered.roles)}",
            )
        if {LayerRole.foreground, LayerRole.background} <= set(options.given):
            raise Refused("both layers are given: there is nothing to draw", "give one of them")
        steps = options.steps or preset.draw_steps
        return replace(preset, draw_steps=steps, layers_guidance=self._guidance(options)), (
            height,
            width,
        )

    def _guidance(self, options: DrawOptions) -> float:
        """Of the options, or the preset's: for layers, or for single ones where a negative text had no effect else."""
        if options.guidance is not None:
            return options.guidance
        return self.preset.guidance if options.negative else self.preset.layers_guidance


@torch.no_grad()
def sample_layers(
    layered: LayeredDenoiser,
    preset: Preset,
    pictures: Sequence[Sequence[LayerRequest]],
    seeds: Sequence[int],
    negative: str = "",
    *,
    joined: bool = True,
    size: Size | None = None,
) -> Tensor:
    """Normalised latents of the layers of pictures, P x L x C x h x w, by DDIM with classifier-free guidance.

    All pictures have the same roles, in one order; any number of layers, and a role may come more than once. Given
    layers enter every step as their clean latents, at time 0, and come back as they are (paper, section 3.3). The
    negative text stands for every layer's: e = e(negative) + layers_guidance * (e(texts) - e(negative)), where e is of
    the layers together; at 1 that is e(texts), and nothing else is asked. size: height and width in pixels, whole
    multiples of the stride; by default the preset's square.
    """
    device = next(layered.denoiser.parameters()).device
    schedule = layered.denoiser.schedule()
    schedule.set_timesteps(preset.draw_steps)
    roles = [wish.role for wish in pictures[0]]
    height, width = (
        side // preset.stride for side in size or (preset.image_size, preset.image_size)
    )
    shape = (len(roles), preset.latent_channels, height, width)
    latent_PLCHW = torch.stack(
        [torch.randn(shape, generator=generator_of(seed)) for seed in seeds]
    ).to(device)
    known_PL = torch.tensor(
        [[wish.clean_CHW is not None for wish in wishes] for wishes in pictures], device=device
    )
    clean_PLCHW = latent_PLCHW.clone()
    for picture, wishes in enumerate(pictures):
        for place, wish in enumerate(wishes):
            if wish.clean_CHW is not None:
                clean_PLCHW[picture, place] = wish.clean_CHW
    known_PL111 = known_PL[..., None, None, None]
    texts = [wish.text for wishes in pictures for wish in wishes]
    times = 1 if preset.layers_guidance == 1 else 2
    texts += [negative] * (times - 1) * len(texts)
    conditions = layered.denoiser.encode(texts, _sizes(size, len(texts)))
    for time in schedule.timesteps:
        latent_PLCHW = torch.where(known_PL111, clean_PLCHW, latent_PLCHW)
        time_B = torch.where(known_PL, 0, time.to(device)).flatten()
        rows_BCHW = latent_PLCHW.flatten(0, 1)
        asked_BCHW, asked_B = (torch.cat([each] * times) for each in (rows_BCHW, time_B))
        predicted_BCHW = layered.predict(asked_BCHW, asked_B, conditions, roles, joined=joined)
        prompted, *others = predicted_BCHW.chunk(times)
        for unprompted in others:
            prompted = unprompted + preset.layers_guidance * (prompted - unprompted)
        rows_BCHW = schedule.step(prompted, time, rows_BCHW).prev_sample
        latent_PLCHW = rows_BCHW.unflatten(0, known_PL.shape)
    return torch.where(known_PL111, clean_PLCHW, latent_PLCHW)


def _complete(layers: Mapping[LayerRole, RGBA]) -> Layers:
    foreground, background = layers[LayerRole.foreground], layers[LayerRole.background]
    return {
        LayerRole.foreground: foreground,
        LayerRole.background: background,
        LayerRole.blended: composite(foreground, background),
    }


def _is_opaque(role: str) -> bool:
    return role != LayerRole.foreground


def _sizes(size: Size | None, count: int) -> Tensor | None:
    """SDXL's size conditioning: the drawn size, uncropped; nothing for the preset's own."""
    return None if size is None else torch.tensor([[*size, 0.0, 0.0, *size]]).repeat(count, 1)
