"""Generator of pairs as in the paper: generate a foreground, inpaint around it, then behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from curation.domain import GenerationRequest, LayerRole, Prompt
from curation.errors import Refused
from curation.images.codec import composite_over, decode_layer
from curation.ports import (
    DEFAULT_OPTIONS,
    RGBA,
    GenerationOptions,
    LayerGenerator,
    Layers,
    ObjectStore,
)
from training.presets.preset import Preset
from training.synthesis.inpainting import ImageArray, Inpainter
from training.synthesis.masks import OPAQUE_ALPHA, TRANSPARENT_ALPHA, mask_around, mask_behind

GRAY = (128, 128, 128)
"""The background of a foreground before inpainting."""


class InpaintingPairGenerator:
    """A LayerGenerator that completes the given generator's foregrounds to pairs by inpainting.

    1. The foreground is generated from its text.

    2. All pixels with alpha < 1 are inpainted with the text of the whole image, and the foreground
    is composited over the result, so that blended is exactly foreground over some background:
    opaque pixels are the foreground's, and translucent ones, which the paper paints over, stay so.

    3. The foreground and a margin around it are inpainted in the blended image with the
    background's text.

    Single layers are returned as the given generator makes them. The masks depend on the
    foreground's alpha alone (training.synthesis.masks), so that the metadata of `describe` suffices
    to recompute them.
    """

    def __init__(
        self, generator: LayerGenerator, inpainter: Inpainter, preset: Preset, store: ObjectStore
    ) -> None:
        self.generator, self.inpainter, self.preset, self.store = (
            generator,
            inpainter,
            preset,
            store,
        )
        self.batch_size = generator.batch_size

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        """Generate pairs for prompts with texts for layers, and foregrounds for the others.

        Args:
            requests: The requests.
            options: The sampling options, with given layers of the same size.

        Raises:
            NotFound: A file does not exist.
            Refused: Given layers have another size, or the generator does not support the options.
        """
        given = {
            role: decode_layer(self.store.get(sha256)) for role, sha256 in options.given.items()
        }
        plain = replace(options, given={})
        # Generate all missing foregrounds in one call, then complete the pairs one by one.
        foregrounds = [
            _foreground(request)
            for request in requests
            if LayerRole.foreground not in given or not is_pair(request.prompt)
        ]
        generated = iter(self.generator.generate(foregrounds, plain))
        return [self._complete(request, given, generated, plain) for request in requests]

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        """Describe the generation of the foreground, the inpainting model and its masks."""
        painted = {
            "inpainter": self.inpainter.name,
            "inpainter_sampler": type(self.inpainter.pipeline.scheduler).__name__.removesuffix(
                "Scheduler"
            ),
            "painted_around": f"alpha < {OPAQUE_ALPHA}",
            "painted_behind": f"alpha > {TRANSPARENT_ALPHA}, "
            f"grown by {self.preset.erosion:g} of 1024 pixels",
        }
        return dict(self.generator.describe(replace(options, given={}))) | painted

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        """Return what the bits of the foreground depend on; inpainting runs on the same device."""
        del pair
        return self.generator.environment(replace(options, given={}))

    def _complete(
        self,
        request: GenerationRequest,
        given: Layers,
        generated: Iterator[Layers],
        options: GenerationOptions,
    ) -> Layers:
        """Complete one request to a pair around its given or generated layers."""
        if not is_pair(request.prompt):
            return next(generated)
        layers = dict(given)
        if LayerRole.foreground not in layers:
            layers[LayerRole.foreground] = next(generated)[LayerRole.foreground]
        foreground = layers[LayerRole.foreground]
        sizes = {layer.shape for layer in layers.values()}
        if len(sizes) > 1:
            raise Refused(
                "the given layers differ in size from the pair",
                "give layers of the foreground's size",
            )
        # Blended: the foreground over the given or inpainted background.
        if LayerRole.blended not in layers:
            background = layers.get(LayerRole.background)
            if background is None:
                background = _opaque(self._paint_around(request, foreground, options))
            layers[LayerRole.blended] = _opaque(composite_over(foreground, background))
        # Background: the blended image without the foreground.
        if LayerRole.background not in layers:
            layers[LayerRole.background] = self._paint_behind(
                request, foreground, layers[LayerRole.blended], options
            )
        return layers

    def _paint_around(
        self, request: GenerationRequest, foreground: RGBA, options: GenerationOptions
    ) -> ImageArray:
        """Inpaint around the foreground with the text of the whole image."""
        text, role = request.prompt.text, LayerRole.blended
        return self._fill(
            composite_over(foreground, GRAY),
            mask_around(foreground),
            text,
            _seed(request.seed, role),
            options,
        )

    def _paint_behind(
        self,
        request: GenerationRequest,
        foreground: RGBA,
        blended: RGBA,
        options: GenerationOptions,
    ) -> RGBA:
        """Inpaint the foreground's area with the text of the background."""
        text, mask = request.prompt.background or "", mask_behind(foreground, self.preset.erosion)
        seed = _seed(request.seed, LayerRole.background)
        return _opaque(
            self._fill(np.ascontiguousarray(blended[..., :3]), mask, text, seed, options)
        )

    def _fill(
        self, image: ImageArray, mask: np.ndarray, text: str, seed: int, options: GenerationOptions
    ) -> ImageArray:
        """Inpaint with the steps and guidance of the options, or the preset's."""
        steps = options.steps or self.preset.draw_steps
        guidance = self.preset.guidance if options.guidance is None else options.guidance
        return self.inpainter.fill(
            image,
            mask,
            text,
            seed,
            steps=steps,
            guidance=guidance,
            negative_prompt=options.negative,
        )


def is_pair(prompt: Prompt) -> bool:
    """Return whether a prompt has a text for a layer (see curation.ports.LayerGenerator)."""
    return prompt.foreground is not None or prompt.background is not None


def _foreground(request: GenerationRequest) -> GenerationRequest:
    return replace(request, prompt=Prompt(request.prompt.foreground or request.prompt.text))


def _opaque(image: ImageArray) -> RGBA:
    return np.dstack([image[..., :3], np.full(image.shape[:2], 255, np.uint8)])


def _seed(seed: int, role: LayerRole) -> int:
    """Derive a seed per role, so that the noise of one step does not correlate with another's."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{role}".encode()).digest()[:7], "big")
