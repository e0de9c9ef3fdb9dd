"""The generator of a scene's layers: a checkpoint, loaded lazily, with validated output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Final

from curation.domain import Checkpoint, GenerationRequest, LayerRole
from curation.errors import Refused
from curation.images.codec import encode_layer
from curation.ports import (
    DEFAULT_OPTIONS,
    RGBA,
    GenerationOptions,
    LayerGenerator,
    Layers,
    ObjectStore,
)
from curation.scenes.sizes import parse_size

NO_LAYERS: Final[Mapping[LayerRole, RGBA]] = MappingProxyType({})


@dataclass
class SceneGenerator:
    """A checkpoint whose generator is loaded on first use, with its generation options."""

    checkpoint: Checkpoint
    open: Callable[[], LayerGenerator]
    store: ObjectStore
    options: GenerationOptions = DEFAULT_OPTIONS

    @cached_property
    def generator(self) -> LayerGenerator:
        """The loaded generator."""
        return self.open()

    def size(self, aspect: float | None) -> tuple[int, int] | None:
        """Return the (width, height) that the checkpoint generates; None if it does not report one.

        Args:
            aspect: Width / height; None for the checkpoint's own aspect.
        """
        reported = self.generator.describe(replace(self.options, size=None, aspect=aspect)).get(
            "size"
        )
        return parse_size(reported)[0]

    def describe(
        self, size: tuple[int, int] | None, given: Mapping[LayerRole, RGBA] = NO_LAYERS
    ) -> dict[str, str]:
        """Return the metadata of images generated with these arguments. Raises Refused.

        Args:
            size: Width and height in pixels; None for the checkpoint's own size.
            given: The layers to fit, by role.
        """
        described = self.generator.describe(self._options(size, given))
        # The generator's own report overrides the requested size.
        requested = {"size": f"{size[0]}x{size[1]}"} if size else {}
        return {
            **requested,
            **described,
            "checkpoint": self.checkpoint.id,
            "preset": self.checkpoint.preset,
        }

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        size: tuple[int, int] | None,
        given: Mapping[LayerRole, RGBA] = NO_LAYERS,
    ) -> Sequence[Layers]:
        """Generate a pair for each request.

        Args:
            requests: The prompts and seeds.
            size: Width and height in pixels; None for the checkpoint's own size.
            given: The layers to fit, by role; they are returned unchanged.

        Raises:
            Refused: The generator returned single layers or another size.
        """
        # Given layers are returned as they were, not as the autoencoder reconstructs them.
        generated = self.generator.generate(requests, self._options(size, given))
        return [self._checked({**layers, **given}, size) for layers in generated]

    def _options(
        self, size: tuple[int, int] | None, given: Mapping[LayerRole, RGBA]
    ) -> GenerationOptions:
        # Generators read given layers from the object store, as training does.
        stored = {role: self.store.put(encode_layer(rgba)) for role, rgba in given.items()}
        sized = replace(self.options, size=size, aspect=None) if size else self.options
        return replace(sized, given=stored)

    def _checked(self, layers: Layers, size: tuple[int, int] | None) -> Layers:
        """Raise Refused for a single layer instead of a pair, or another size."""
        if set(layers) < set(LayerRole):
            raise Refused(
                f"checkpoint {self.checkpoint.id[:12]} generates single layers only",
                "with --checkpoint choose one trained on pairs or imported with layer weights",
            )
        for role, rgba in layers.items():
            if size and rgba.shape != (size[1], size[0], 4):
                found, wanted = f"{rgba.shape[1]}x{rgba.shape[0]}", f"{size[0]}x{size[1]}"
                raise Refused(
                    f"the {role} was generated with {found} pixels instead of {wanted}",
                    f"set the size to {found}",
                )
        return layers
