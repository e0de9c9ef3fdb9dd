"""Pair generation for the worker: a checkpoint's modes generate the missing layers in sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from curation.domain import GenerationRequest, LayerRole
from curation.errors import Refused
from curation.images.codec import decode_layer
from curation.ports import RGBA, GenerationOptions, Layers, ObjectStore
from training.checkpoint import LoadedCheckpoint
from training.draw_batches import seeded_generator, to_layers
from training.interop.modes import SINGLE, Mode, plan_modes
from training.pipelines.images import to_rgba
from training.pipelines.layers import LayersPipeline, prefers_euler
from training.pipelines.noise import noise_rows
from training.pipelines.text_to_image import TransparentPipeline
from training.pipelines.weight_swap import SwappableWeights
from training.safetensors_io import load_part


class PairSampler:
    """Generates pairs with a checkpoint's modes; their files are opened on first use and kept."""

    def __init__(
        self, pipe: TransparentPipeline, parts: LoadedCheckpoint, store: ObjectStore
    ) -> None:
        self.pipe, self.parts, self.store = pipe, parts, store
        self._loaded: dict[str, SwappableWeights] = {}

    def alone(self) -> AbstractContextManager[None]:
        """Return a context in which the UNet generates single foregrounds.

        Raises:
            Refused: The checkpoint has no base.
        """
        if not self.parts.modes:
            return nullcontext()  # the base is merged into the UNet permanently
        if self.parts.base is None:
            raise Refused(
                f"this checkpoint has only {', '.join(sorted(self.parts.modes))}: "
                "it cannot generate single foregrounds",
                "give the prompt a foreground or background text, or import "
                "layer_*_transparent_attn too",
            )
        return self._layer_weights(SINGLE.name).applied()

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[GenerationRequest],
        options: GenerationOptions,
        size: tuple[int, int],
        schedulers: tuple[Any, Any],
        arguments: Mapping[str, Any],
    ) -> list[Layers]:
        """Generate foreground, background and blended image of each request, in one batch.

        Args:
            requests: The requests.
            options: The options, with the given layers.
            size: Width and height, used if no layer is given.
            schedulers: The default scheduler, and that of modes that are given a blended image.
            arguments: Further arguments of the diffusers pipeline.

        Raises:
            NotFound: A file does not exist.
            Refused: The checkpoint or the options do not support it.
        """
        if options.image is not None or options.upscale != 1:
            hint = "omit image and upscale; pass given layers by their role"
            raise Refused("pairs support neither an initial image nor upscaling", hint)
        modes = self._modes(options)
        stored = {role: decode_layer(self.store.get(sha)) for role, sha in options.given.items()}
        layers = {role: to_rgba(pixels) for role, pixels in stored.items()}
        height, width = _size(stored, options) or size[::-1]
        texts = _texts(requests)
        generators = [seeded_generator(request.seed) for request in requests]
        # Each mode adds the layers it generates to those that the next one may be given.
        for mode in modes:
            pipe = LayersPipeline(self.pipe, self._layer_weights(mode.name), mode)
            pipe.scheduler = schedulers[prefers_euler(mode)]
            latents = pipe.generate_latents(
                {role: texts[role] for role in mode.generated},
                {role: layers[role] for role in mode.given},
                (height, width),
                negative_prompt=options.negative,
                generator=generators,
                latents=noise_rows(self.pipe, generators, (height, width), len(mode.generated)),
                **arguments,
            )
            layers |= pipe.decode(latents, (height, width))
        return _by_request({role: layers[role] for role in LayerRole}, stored, len(requests))

    def describe(self, options: GenerationOptions) -> dict[str, str]:
        """Describe the given layers and the modes that generate the others.

        Raises:
            Refused: The modes cannot generate a pair around the given layers.
        """
        modes = self._modes(options)
        described = {f"given {role}": sha for role, sha in options.given.items()}
        if options.sampler is None and any(map(prefers_euler, modes)):
            described["sampler of the last mode"] = "euler_a"
        return described | {"modes": ", ".join(mode.name for mode in modes)}

    def first_layers(self, options: GenerationOptions) -> int:
        """Return the number of layers of the first mode, whose noise is drawn first."""
        return len(self._modes(options)[0].generated)

    def _modes(self, options: GenerationOptions) -> list[Mode]:
        """Return the modes to run, in order. Raises Refused."""
        base = [SINGLE.name] if self.parts.base is not None else []
        return plan_modes([*self.parts.modes, *base], set(options.given))

    def _layer_weights(self, name: str) -> SwappableWeights:
        """Return the swappable weights of a mode, loaded on first use."""
        if name not in self._loaded:
            stored = (
                self.parts.base
                if name == SINGLE.name
                else load_part(self.store, self.parts.modes[name])
            )
            assert stored is not None  # noqa: S101 - checked by plan and alone
            self._loaded[name] = SwappableWeights(self.pipe.pipeline.unet, *stored)
        return self._loaded[name]


def _texts(requests: Sequence[GenerationRequest]) -> dict[LayerRole, list[str]]:
    """Return the text of each layer, which defaults to the whole image's."""
    prompts = [request.prompt for request in requests]
    return {
        LayerRole.foreground: [prompt.foreground or prompt.text for prompt in prompts],
        LayerRole.background: [prompt.background or prompt.text for prompt in prompts],
        LayerRole.blended: [prompt.text for prompt in prompts],
    }


def _size(given: Mapping[LayerRole, RGBA], options: GenerationOptions) -> tuple[int, int] | None:
    """Return height and width of the given layers.

    Raises Refused if they differ from each other or from the requested size.
    """
    sizes = {pixels.shape[:2] for pixels in given.values()}
    requested = {options.size[::-1]} if options.size and sizes else set()
    if len(sizes | requested) > 1:
        listed = " and ".join(f"{width}x{height}" for height, width in sorted(sizes | requested))
        raise Refused(
            f"given layers are not resized, and these differ in size: {listed}",
            "give layers of one size",
        )
    return next(iter(sizes), None)


def _by_request(
    layers: Mapping[LayerRole, Tensor], given: Mapping[LayerRole, RGBA], count: int
) -> list[Layers]:
    """Regroup layers by request; given layers are returned bit for bit."""
    pixels = {
        role: [given[role]] * count if role in given else to_layers(rgba_B4HW)
        for role, rgba_B4HW in layers.items()
    }
    return [{role: rows[index] for role, rows in pixels.items()} for index in range(count)]
