"""Who draws a scene: a checkpoint, opened late, whose answers are held to what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Final

from curation.domain import Checkpoint, DrawRequest, LayerRole
from curation.errors import Refused
from curation.images.codec import encode_layer
from curation.ports import PLAIN, RGBA, DrawOptions, LayerGenerator, Layers, ObjectStore
from curation.scenes.sizes import read_size

NONE: Final[Mapping[LayerRole, RGBA]] = MappingProxyType({})


@dataclass
class SceneGenerator:
    """A checkpoint, whose generator is opened when it is first needed, and the options that it draws with."""

    checkpoint: Checkpoint
    open: Callable[[], LayerGenerator]
    store: ObjectStore
    options: DrawOptions = PLAIN

    @cached_property
    def generator(self) -> LayerGenerator:
        """Its weights, loaded."""
        return self.open()

    def size(self, aspect: float | None) -> tuple[int, int] | None:
        """The width and height that it draws at an aspect, or by itself; None where it says nothing of that."""
        told = self.generator.describe(replace(self.options, size=None, aspect=aspect)).get("size")
        return read_size(told)[0]

    def describe(
        self, size: tuple[int, int] | None, given: Mapping[LayerRole, RGBA] = NONE
    ) -> dict[str, str]:
        """What drawings of (width, height) pixels that fit the given layers are made with. Raises Refused."""
        told = self.generator.describe(self._options(size, given))
        asked = {"size": f"{size[0]}x{size[1]}"} if size else {}
        return {**asked, **told, "checkpoint": self.checkpoint.id, "preset": self.checkpoint.preset}

    def draw(
        self,
        requests: Sequence[DrawRequest],
        size: tuple[int, int] | None,
        given: Mapping[LayerRole, RGBA] = NONE,
    ) -> Sequence[Layers]:
        """A pair for each request, of (width, height) pixels or the checkpoint's own size, that fits the given layers.

        The given layers are in what is returned as they were given. Raises Refused where the generator draws otherwise.
        """
        drawn = self.generator.draw(requests, self._options(size, given))
        return [self._checked({**layers, **given}, size) for layers in drawn]

    def _options(
        self, size: tuple[int, int] | None, given: Mapping[LayerRole, RGBA]
    ) -> DrawOptions:
        stored = {role: self.store.put(encode_layer(rgba)) for role, rgba in given.items()}
        sized = replace(self.options, size=size, aspect=None) if size else self.options
        return replace(sized, given=stored)

    def _checked(self, layers: Layers, size: tuple[int, int] | None) -> Layers:
        """Raises Refused where a pair was asked for and a single layer drawn, or another size."""
        if set(layers) < set(LayerRole):
            hint = "choose one with --checkpoint that was trained on pairs, or imported with weights for layers"
            raise Refused(f"checkpoint {self.checkpoint.id[:12]} draws single layers only", hint)
        for role, rgba in layers.items():
            if size and rgba.shape != (size[1], size[0], 4):
                found, wanted = f"{rgba.shape[1]}x{rgba.shape[0]}", f"{size[0]}x{size[1]}"
                raise Refused(
                    f"the {role} was drawn with {found} pixels and not {wanted}",
                    f"ask for the size {found}",
                )
        return layers
