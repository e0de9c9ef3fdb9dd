"""The renderer of scene steps: generate or place layers, blend them and write their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from curation import __version__
from curation.domain import LayerRole
from curation.errors import Refused
from curation.images.pairs import composite
from curation.images.provenance import COMPOSED, GENERATED, encode_image, read_image
from curation.ports import RGBA
from curation.scenes.blending import apply_opacity, new_canvas, place_on_canvas
from curation.scenes.layer_source import SceneGenerator
from curation.scenes.manifest import LayerEntry, StepEntry, write_atomically
from curation.scenes.planning import SceneStep, StepKind
from curation.scenes.scene import Scene
from curation.scenes.scene_images import fit_background, place_image

WHITE = (255, 255, 255)
ORIGIN = (0, 0)
PlacedLayer = tuple[RGBA, tuple[int, int]]
"""A layer's pixels, and the (x, y) of its upper left corner on the canvas."""


class SceneRenderer:
    """The blend so far, and the folder to which layers are written."""

    def __init__(
        self,
        scene: Scene,
        images: Mapping[Path, RGBA],
        generator: SceneGenerator | None,
        folder: Path,
        size: tuple[int, int],
    ) -> None:
        self.scene = scene
        self.images = images
        self.generator = generator
        self.folder = folder
        self.size = size
        self.layers: list[LayerEntry] = []
        self.blended = new_canvas(size)

    def take(self, layer: LayerEntry) -> None:
        """Blend a layer that is already in the folder."""
        self._blend(layer, read_image(self.folder / layer.file))

    def make(self, step: SceneStep, key: str) -> StepEntry:
        """Execute one step and write its layers and the blend of all layers so far. Raises Refused.

        Args:
            step: The step.
            key: The hash of everything that determines its result.
        """
        given = self._given(step)
        metadata = self._metadata(step, given)
        kept = []
        # Write and blend the new layers from below.
        for index, (rgba, offset) in self._make_layers(step, given).items():
            layer = self._keep(step, index, rgba, offset, metadata)
            self._blend(layer, rgba)
            kept.append(layer)
        name = f"blended-{step.places[-1]}.png"
        return StepEntry(key, tuple(kept), name, self._keep_blended(name))

    def _given(self, step: SceneStep) -> Mapping[LayerRole, RGBA]:
        """Return the layers that a step's generated layers must fit."""
        if step.way is StepKind.over:
            return {LayerRole.background: self.blended}
        return (
            {LayerRole.foreground: self._blend_files(step.given)}
            if step.way is StepKind.under
            else {}
        )

    def _make_layers(
        self, step: SceneStep, given: Mapping[LayerRole, RGBA]
    ) -> Mapping[int, PlacedLayer]:
        """Return the layers that a step adds, by index."""
        if step.request is None:
            return {index: self._place_image(index) for index in step.places}
        # A generated layer covers the whole canvas.
        [layers] = self._generator().generate([step.request], self.size, given)
        return {
            index: (layers[LayerRole.foreground if index else LayerRole.background], ORIGIN)
            for index in step.places
        }

    def _place_image(self, index: int) -> PlacedLayer:
        """Return the user's image or color as it lies on the canvas."""
        background = self.scene.background
        file = self.scene.layers[index - 1].file if index else background.file
        if index and file:
            layer = self.scene.layers[index - 1]
            return place_image(self.images[file], self.size, layer.position, layer.scale)
        backdrop = new_canvas(self.size, background.colour or WHITE)
        # A transparent or smaller background file is filled with the background color.
        if file is None:
            return backdrop, ORIGIN
        return composite(
            fit_background(self.images[file], self.size, background.fit), backdrop
        ), ORIGIN

    def _blend_files(self, indices: Sequence[int]) -> RGBA:
        """Return the blend of the user's own layers at these indices, without a background."""
        blended = new_canvas(self.size)
        for index in indices:
            rgba, offset = self._place_image(index)
            blended = composite(
                place_on_canvas(
                    apply_opacity(rgba, self.scene.layers[index - 1].opacity), offset, self.size
                ),
                blended,
            )
        return blended

    def _blend(self, layer: LayerEntry, rgba: RGBA) -> None:
        left, top = layer.offset
        above = place_on_canvas(apply_opacity(rgba, layer.opacity), (left, top), self.size)
        self.blended = composite(above, self.blended)
        self.layers.append(layer)

    def _keep(
        self,
        step: SceneStep,
        index: int,
        rgba: RGBA,
        offset: tuple[int, int],
        metadata: Mapping[str, str],
    ) -> LayerEntry:
        """Write a layer's file and return its manifest entry."""
        layer = self.scene.layers[index - 1] if index else None
        described = layer or self.scene.background
        role = LayerRole.foreground if index else LayerRole.background
        name = layer.name if layer else "background"
        file = f"{index}-{_slug(name)}.png"
        layer_metadata = {**metadata, "role": role.value, "layer": name} if metadata else {}
        return LayerEntry(
            place=index,
            name=name,
            role=role.value,
            source="drawn" if step.request else "file" if described.file else "colour",
            prompt=described.prompt,
            seed=step.request.seed if step.request else None,
            file=file,
            sha256=self._write(file, rgba, layer_metadata),
            size=(rgba.shape[1], rgba.shape[0]),
            offset=offset,
            opacity=layer.opacity if layer else 255,
        )

    def _keep_blended(self, name: str) -> str:
        """Write the blend with its provenance metadata and return its SHA-256."""
        sources = {layer.source for layer in self.layers}
        # A blend of the user's own files alone carries no AI provenance.
        if "drawn" not in sources:
            return self._write(name, self.blended, {})
        checkpoint = self._generator().checkpoint
        metadata = {
            "prompt": ", ".join(layer.prompt or layer.name for layer in reversed(self.layers)),
            "role": LayerRole.blended.value,
            "checkpoint": checkpoint.id,
            "preset": checkpoint.preset,
            "version": __version__,
        }
        return self._write(
            name, self.blended, metadata, COMPOSED if "file" in sources else GENERATED
        )

    def _metadata(self, step: SceneStep, given: Mapping[LayerRole, RGBA]) -> dict[str, str]:
        """Return the metadata of a step's generated layers; none for the user's own."""
        if step.request is None:
            return {}
        prompt, generator = step.request.prompt, self._generator()
        return {
            "prompt": prompt.text,
            "foreground": prompt.foreground or "",
            "background": prompt.background or "",
            "negative": generator.options.negative or "",
            "seed": str(step.request.seed),
            **generator.describe(self.size, given),
            "version": __version__,
        }

    def _generator(self) -> SceneGenerator:
        if self.generator is None:
            raise Refused("the scene needs a generator", "choose a checkpoint with --checkpoint")
        return self.generator

    def _write(
        self, name: str, rgba: RGBA, metadata: Mapping[str, str], source: str = GENERATED
    ) -> str:
        """Write an image, with metadata if there is any, and return its SHA-256."""
        data = encode_image(self.folder / name, rgba, metadata or None, source)
        return write_atomically(self.folder / name, lambda new: new.write_bytes(data))


def _slug(name: str) -> str:
    """Return a layer's name as part of a file name."""
    return re.sub(r"\W+", "-", name.lower()).strip("-")[:40].strip("-") or "layer"
