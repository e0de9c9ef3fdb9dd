"""Pairs for the worker: a checkpoint's modes, one after another, draw what is missing around the layers given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from curation.domain import DrawRequest, LayerRole
from curation.errors import Refused
from curation.images.codec import decode_layer
from curation.ports import RGBA, DrawOptions, Layers, ObjectStore
from training.checkpoint import LoadedCheckpoint
from training.draw_batches import as_layers, generator_of
from training.interop.modes import SINGLE, Mode, plan
from training.pipelines.images import to_rgba
from training.pipelines.layers import LayersPipeline, prefers_euler
from training.pipelines.text_to_image import TransparentPipeline
from training.pipelines.weight_swap import SwappableWeights
from training.safetensors_io import load_part


class PairSampler:
    """What a checkpoint draws pairs with; its files are opened when they are first needed, and kept."""

    def __init__(
        self, pipe: TransparentPipeline, parts: LoadedCheckpoint, store: ObjectStore
    ) -> None:
        self.pipe, self.parts, self.store = pipe, parts, store
        self._lessons: dict[str, SwappableWeights] = {}

    def alone(self) -> AbstractContextManager[None]:
        """Within, the UNet draws a foreground alone. Raises Refused for a checkpoint that has no base."""
        if not self.parts.modes:
            return nullcontext()  # it is in the UNet for good
        if self.parts.base is None:
            raise Refused(
                f"this checkpoint has {', '.join(sorted(self.parts.modes))} alone: it draws no foreground by itself",
                "give the prompt a foreground or background text, or import layer_*_transparent_attn with the rest",
            )
        return self._lesson(SINGLE.name).taught()

    @torch.no_grad()
    def draw(
        self,
        requests: Sequence[DrawRequest],
        options: DrawOptions,
        size: tuple[int, int],
        schedulers: tuple[Any, Any],
        arguments: Mapping[str, Any],
    ) -> list[Layers]:
        """Foreground, background and blended of each request, drawn together in one batch.

        size: width and height, where no layer is given. schedulers: the plain one, and one for modes that are given a
        blended picture. Raises NotFound; Refused where the checkpoint cannot.
        """
        if options.image is not None or options.upscale != 1:
            hint = "leave image and upscale out; the layers that a pair is to fit are given by their role"
            raise Refused("a pair neither begins from an image nor is it enlarged", hint)
        way = self._way(options)
        stored = {role: decode_layer(self.store.get(sha)) for role, sha in options.given.items()}
        layers = {role: to_rgba(pixels) for role, pixels in stored.items()}
        height, width = _size(stored, options) or size[::-1]
        texts = _texts(requests)
        generators = [generator_of(request.seed) for request in requests]
        for mode in way:
            pipe = LayersPipeline(self.pipe, self._lesson(mode.name), mode)
            pipe.scheduler = schedulers[prefers_euler(mode)]
            latents = pipe.draw(
                {role: texts[role] for role in mode.drawn},
                {role: layers[role] for role in mode.given},
                (height, width),
                negative_prompt=options.negative,
                generator=generators,
                **arguments,
            )
            layers |= pipe.decode(latents, (height, width))
        return _by_picture({role: layers[role] for role in LayerRole}, stored, len(requests))

    def describe(self, options: DrawOptions) -> dict[str, str]:
        """The layers that are given, and by which modes the others are drawn. Raises Refused where they cannot be."""
        way = self._way(options)
        told = {f"given {role}": sha for role, sha in options.given.items()}
        if options.sampler is None and any(map(prefers_euler, way)):
            told["sampler of the last mode"] = "euler_a"
        return told | {"modes": ", ".join(mode.name for mode in way)}

    def _way(self, options: DrawOptions) -> list[Mode]:
        base = [SINGLE.name] if self.parts.base is not None else []
        return plan([*self.parts.modes, *base], set(options.given))

    def _lesson(self, name: str) -> SwappableWeights:
        if name not in self._lessons:
            stored = (
                self.parts.base
                if name == SINGLE.name
                else load_part(self.store, self.parts.modes[name])
            )
            assert stored is not None  # noqa: S101 - plan and alone have looked
            self._lessons[name] = SwappableWeights(self.pipe.pipeline.unet, *stored)
        return self._lessons[name]


def _texts(requests: Sequence[DrawRequest]) -> dict[LayerRole, list[str]]:
    """Each layer's text, the whole picture's where it has none of its own."""
    prompts = [request.prompt for request in requests]
    return {
        LayerRole.foreground: [prompt.foreground or prompt.text for prompt in prompts],
        LayerRole.background: [prompt.background or prompt.text for prompt in prompts],
        LayerRole.blended: [prompt.text for prompt in prompts],
    }


def _size(given: Mapping[LayerRole, RGBA], options: DrawOptions) -> tuple[int, int] | None:
    """H and W of the layers given. Raises Refused where they differ from each other or from the size asked for."""
    sizes = {pixels.shape[:2] for pixels in given.values()}
    asked = {options.size[::-1]} if options.size and sizes else set()
    if len(sizes | asked) > 1:
        said = " and ".join(f"{width}x{height}" for height, width in sorted(sizes | asked))
        raise Refused(
            f"given layers are taken as they are, and here are sizes of {said}",
            "give them in one size",
        )
    return next(iter(sizes), None)


def _by_picture(
    layers: Mapping[LayerRole, Tensor], given: Mapping[LayerRole, RGBA], count: int
) -> list[Layers]:
    """Pixels by picture and role; given ones are what they were, to the bit."""
    pixels = {
        role: [given[role]] * count if role in given else as_layers(rgba_B4HW)
        for role, rgba_B4HW in layers.items()
    }
    return [{role: rows[place] for role, rows in pixels.items()} for place in range(count)]
