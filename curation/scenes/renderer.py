"""One step of a scene: its layers drawn or set down, laid on the picture so far, and kept as files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from curation import __version__
from curation.domain import LayerRole
from curation.errors import Refused
from curation.images.pairs import composite
from curation.images.provenance import COMPOSED, DRAWN, encode_picture, read_picture
from curation.ports import RGBA
from curation.scenes.blending import canvas, fade, on_canvas
from curation.scenes.layer_source import SceneGenerator
from curation.scenes.manifest import KeptLayer, KeptStep, write_whole
from curation.scenes.planning import Step, StepKind
from curation.scenes.scene import Scene
from curation.scenes.scene_images import as_background, set_down

WHITE = (255, 255, 255)
ORIGIN = (0, 0)
Laid = tuple[RGBA, tuple[int, int]]
"""A layer's pixels, and where its upper left corner lies on the canvas (x, y)."""


class SceneRenderer:
    """The picture so far, and the folder that its layers are kept in."""

    def __init__(
        self,
        scene: Scene,
        pictures: Mapping[Path, RGBA],
        hand: SceneGenerator | None,
        folder: Path,
        size: tuple[int, int],
    ) -> None:
        self.scene, self.pictures, self.hand, self.folder, self.size = (
            scene,
            pictures,
            hand,
            folder,
            size,
        )
        self.layers: list[KeptLayer] = []
        self.blended = canvas(size)

    def take(self, layer: KeptLayer) -> None:
        """Lay a layer of the folder on the picture."""
        self._lay(layer, read_picture(self.folder / layer.file))

    def make(self, step: Step, key: str) -> KeptStep:
        """Do one step and keep its layers and the blend of all layers so far. Raises Refused."""
        given = self._given(step)
        facts = self._facts(step, given)
        kept = []
        for place, (rgba, offset) in self._fresh(step, given).items():
            layer = self._keep(step, place, rgba, offset, facts)
            self._lay(layer, rgba)
            kept.append(layer)
        name = f"blended-{step.places[-1]}.png"
        return KeptStep(key, tuple(kept), name, self._keep_blended(name))

    def _given(self, step: Step) -> Mapping[LayerRole, RGBA]:
        """The layers that a step's drawing is to fit."""
        if step.way is StepKind.over:
            return {LayerRole.background: self.blended}
        return (
            {LayerRole.foreground: self._together(step.given)} if step.way is StepKind.under else {}
        )

    def _fresh(self, step: Step, given: Mapping[LayerRole, RGBA]) -> Mapping[int, Laid]:
        """What a step adds, by its places."""
        if step.request is None:
            return {place: self._set_down(place) for place in step.places}
        [layers] = self._painter().draw([step.request], self.size, given)
        return {
            one: (layers[LayerRole.foreground if one else LayerRole.background], ORIGIN)
            for one in step.places
        }

    def _set_down(self, place: int) -> Laid:
        """A picture or colour of the user's, as it lies on the canvas."""
        background = self.scene.background
        file = self.scene.layers[place - 1].file if place else background.file
        if place and file:
            layer = self.scene.layers[place - 1]
            return set_down(self.pictures[file], self.size, layer.position, layer.scale)
        plain = canvas(self.size, background.colour or WHITE)
        if file is None:
            return plain, ORIGIN
        return composite(
            as_background(self.pictures[file], self.size, background.fit), plain
        ), ORIGIN

    def _together(self, places: Sequence[int]) -> RGBA:
        """The user's own layers at these places, over nothing."""
        clear = canvas(self.size)
        for place in places:
            rgba, offset = self._set_down(place)
            clear = composite(
                on_canvas(fade(rgba, self.scene.layers[place - 1].opacity), offset, self.size),
                clear,
            )
        return clear

    def _lay(self, layer: KeptLayer, rgba: RGBA) -> None:
        left, top = layer.offset
        above = on_canvas(fade(rgba, layer.opacity), (left, top), self.size)
        self.blended = composite(above, self.blended)
        self.layers.append(layer)

    def _keep(
        self, step: Step, place: int, rgba: RGBA, offset: tuple[int, int], facts: Mapping[str, str]
    ) -> KeptLayer:
        """Write a layer's file and account for it."""
        layer = self.scene.layers[place - 1] if place else None
        described = layer or self.scene.background
        role = LayerRole.foreground if place else LayerRole.background
        name = layer.name if layer else "background"
        file = f"{place}-{_slug(name)}.png"
        told = {**facts, "role": role.value, "layer": name} if facts else {}
        return KeptLayer(
            place=place,
            name=name,
            role=role.value,
            source="drawn" if step.request else "file" if described.file else "colour",
            prompt=described.prompt,
            seed=step.request.seed if step.request else None,
            file=file,
            sha256=self._write(file, rgba, told),
            size=(rgba.shape[1], rgba.shape[0]),
            offset=offset,
            opacity=layer.opacity if layer else 255,
        )

    def _keep_blended(self, name: str) -> str:
        """Write the picture so far, saying which of it a model made; its sha256."""
        sources = {layer.source for layer in self.layers}
        if "drawn" not in sources:
            return self._write(name, self.blended, {})
        drawer = self._painter().checkpoint
        facts = {
            "prompt": ", ".join(layer.prompt or layer.name for layer in reversed(self.layers)),
            "role": LayerRole.blended.value,
            "checkpoint": drawer.id,
            "preset": drawer.preset,
            "version": __version__,
        }
        return self._write(name, self.blended, facts, COMPOSED if "file" in sources else DRAWN)

    def _facts(self, step: Step, given: Mapping[LayerRole, RGBA]) -> dict[str, str]:
        """How a step's layers are drawn, as their files tell it; nothing where the user gave them."""
        if step.request is None:
            return {}
        prompt, hand = step.request.prompt, self._painter()
        return {
            "prompt": prompt.text,
            "foreground": prompt.foreground or "",
            "background": prompt.background or "",
            "negative": hand.options.negative or "",
            "seed": str(step.request.seed),
            **hand.describe(self.size, given),
            "version": __version__,
        }

    def _painter(self) -> SceneGenerator:
        if self.hand is None:
            raise Refused("nobody is there to draw", "name a checkpoint with --checkpoint")
        return self.hand

    def _write(self, name: str, rgba: RGBA, facts: Mapping[str, str], source: str = DRAWN) -> str:
        """Write a picture, which says nothing of itself where there are no facts, and return its sha256."""
        data = encode_picture(self.folder / name, rgba, facts or None, source)
        return write_whole(self.folder / name, lambda new: new.write_bytes(data))


def _slug(name: str) -> str:
    """A layer's name as part of a file's."""
    return re.sub(r"\W+", "-", name.lower()).strip("-")[:40].strip("-") or "layer"
