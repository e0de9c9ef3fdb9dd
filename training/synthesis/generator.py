"""The generator of pairs step by step, as the paper made its own: draw the foreground, paint around it, then behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from curation.domain import DrawRequest, LayerRole, Prompt
from curation.errors import Refused
from curation.images.codec import decode_layer, over
from curation.ports import PLAIN, RGBA, DrawOptions, LayerGenerator, Layers, ObjectStore
from training.presets.preset import Preset
from training.synthesis.inpainting import Inpainter, Picture
from training.synthesis.masks import CLEAR, SOLID, around, behind

GREY = (128, 128, 128)
"""What a foreground stands on before anything is painted around it."""


class PairSynthesis:
    """A LayerGenerator: single layers are the given generator's own, pairs are its foregrounds, completed.

    1. The foreground is drawn from its text.
    2. Everything under alpha < 1 is inpainted with the text of the whole; the foreground is laid over that again by its
       alpha, so that blended is exactly foreground over something: solid pixels are the foreground's to the level, and
       glass, which the paper paints over, stays glass.
    3. Where the foreground is and a margin around it, blended is inpainted with the text of the background.

    The masks are made of the foreground's alpha alone (training.synthesis.masks), so what `describe` tells of them is
    all that is needed to make them again.
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
        self.at_once = generator.at_once

    def draw(
        self, requests: Sequence[DrawRequest], options: DrawOptions = PLAIN
    ) -> Sequence[Layers]:
        """Foreground, background and blended for a prompt with texts of its own for layers, a foreground for others.

        Raises NotFound, Refused, and Refused for given layers of other sizes.
        """
        given = {
            role: decode_layer(self.store.get(sha256)) for role, sha256 in options.given.items()
        }
        plain = replace(options, given={})
        alone = [
            _foreground(one)
            for one in requests
            if LayerRole.foreground not in given or not is_pair(one.prompt)
        ]
        drawn = iter(self.generator.draw(alone, plain))
        return [self._complete(one, given, drawn, plain) for one in requests]

    def describe(self, options: DrawOptions) -> Mapping[str, str]:
        """What the foreground is drawn with, which model inpaints, and what it paints."""
        painted = {
            "inpainter": self.inpainter.name,
            "inpainter_sampler": type(self.inpainter.pipeline.scheduler).__name__.removesuffix(
                "Scheduler"
            ),
            "painted_around": f"alpha < {SOLID}",
            "painted_behind": f"alpha > {CLEAR}, grown by {self.preset.erosion:g} of 1024 pixels",
        }
        return dict(self.generator.describe(replace(options, given={}))) | painted

    def _complete(
        self, request: DrawRequest, given: Layers, drawn: Iterator[Layers], options: DrawOptions
    ) -> Layers:
        if not is_pair(request.prompt):
            return next(drawn)
        layers = dict(given)
        if LayerRole.foreground not in layers:
            layers[LayerRole.foreground] = next(drawn)[LayerRole.foreground]
        foreground = layers[LayerRole.foreground]
        sizes = {layer.shape for layer in layers.values()}
        if len(sizes) > 1:
            raise Refused(
                "the given layers are of other sizes than the pair",
                "give layers of the foreground's size",
            )
        if LayerRole.blended not in layers:
            below = layers.get(LayerRole.background)
            if below is None:
                below = _opaque(self._paint_around(request, foreground, options))
            layers[LayerRole.blended] = _opaque(over(foreground, below))
        if LayerRole.background not in layers:
            layers[LayerRole.background] = self._paint_behind(
                request, foreground, layers[LayerRole.blended], options
            )
        return layers

    def _paint_around(
        self, request: DrawRequest, foreground: RGBA, options: DrawOptions
    ) -> Picture:
        text, role = request.prompt.text, LayerRole.blended
        return self._fill(
            over(foreground, GREY), around(foreground), text, _seed(request.seed, role), options
        )

    def _paint_behind(
        self, request: DrawRequest, foreground: RGBA, blended: RGBA, options: DrawOptions
    ) -> RGBA:
        text, mask = request.prompt.background or "", behind(foreground, self.preset.erosion)
        seed = _seed(request.seed, LayerRole.background)
        return _opaque(
            self._fill(np.ascontiguousarray(blended[..., :3]), mask, text, seed, options)
        )

    def _fill(
        self, picture: Picture, mask: np.ndarray, text: str, seed: int, options: DrawOptions
    ) -> Picture:
        steps = options.steps or self.preset.draw_steps
        guidance = self.preset.guidance if options.guidance is None else options.guidance
        return self.inpainter.fill(
            picture, mask, text, seed, steps=steps, guidance=guidance, negative=options.negative
        )


def is_pair(prompt: Prompt) -> bool:
    """Whether a prompt has a text for one of its layers (the door's rule, curation.ports.LayerGenerator)."""
    return prompt.foreground is not None or prompt.background is not None


def _foreground(request: DrawRequest) -> DrawRequest:
    return replace(request, prompt=Prompt(request.prompt.foreground or request.prompt.text))


def _opaque(picture: Picture) -> RGBA:
    return np.dstack([picture[..., :3], np.full(picture.shape[:2], 255, np.uint8)])


def _seed(seed: int, role: LayerRole) -> int:
    """Noise of its own for every step, or what is painted would follow what is under it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{role}".encode()).digest()[:7], "big")
