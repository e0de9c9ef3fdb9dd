"""What `layerloop draw` does for pairs and for scenes: `--background`, `--on`, `--under`, `--layers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import __version__
from curation.cli.output import (
    context,
    print_json,
    print_rows,
    print_text,
    progress,
    resumable,
    talk,
)
from curation.domain import Checkpoint, DrawRequest, LayerRole, Progress, Prompt
from curation.errors import NotFound, Refused

if TYPE_CHECKING:
    from curation.ports import RGBA, DrawOptions, Layers
    from curation.runtime.context import AppContext
    from curation.scenes.layer_source import SceneGenerator
    from curation.scenes.planning import Step
    from curation.scenes.scene import Scene


@dataclass(frozen=True)
class Pair:
    """What a pair is drawn of: two texts and that of both together; or a picture in place of one of them."""

    foreground: str | None
    background: str | None
    whole: str | None
    on: Path | None  # the user's background
    under: Path | None  # the user's foreground

    def prompt(self) -> Prompt:
        """The texts that a generator is asked with. Raises Refused where something is missing, or too much."""
        if self.on and self.under:
            raise Refused(
                "both layers are given, so nothing is left to draw", "leave out --on or --under"
            )
        if self.under and self.background is None:
            raise Refused(
                "there is no text for the background",
                "say what to draw: --background 'a snowy forest'",
            )
        if self.foreground is None and not self.under:
            raise Refused(
                "there is no prompt",
                "say what to draw: layerloop draw 'a fox' --background 'a snowy forest'",
            )
        if self.background is None and not self.on:
            raise Refused(
                "a whole is drawn of two layers",
                "say what lies behind: --background TEXT, or --on FILE",
            )
        text = self.whole or ", ".join(filter(None, [self.foreground, self.background]))
        return Prompt(text, self.foreground, self.background)


def find_hand(ctx: AppContext, name: str | None, options: DrawOptions) -> SceneGenerator:
    """The named checkpoint, or the promoted one, ready to be opened. Raises NotFound."""
    from curation.runtime.context import load
    from curation.scenes.layer_source import SceneGenerator

    checkpoint = find_checkpoint(ctx, name)
    return SceneGenerator(
        checkpoint,
        lambda: load(ctx.settings.generator)(checkpoint, ctx.store),
        ctx.store,
        options,
    )


def find_checkpoint(ctx: AppContext, name: str | None) -> Checkpoint:
    """The named checkpoint, or the promoted one. Raises NotFound."""
    from curation.checkpoints import registry

    with ctx.database.transaction() as tx:
        if name is not None:
            return registry.find_checkpoint(tx, name)
        promoted = registry.promoted(tx)
    if promoted is None:
        raise NotFound(
            "no checkpoint draws yet",
            "name one with --checkpoint, or run 'layerloop checkpoint promote NAME'",
        )
    return promoted


def draw_pairs(
    ctx: AppContext,
    name: str | None,
    pair: Pair,
    files: Mapping[int, Mapping[LayerRole, Path]],
    options: DrawOptions,
) -> Iterator[dict[str, Any]]:
    """Draw a pair for every seed and write its three files; what each pair's files say, with their paths."""
    from curation.cli.text_warnings import warn_of_prompts
    from curation.scenes.scene_images import read_pictures

    prompt = pair.prompt()
    pictures = read_pictures(
        [path for path in (pair.on, pair.under) if path], ctx.settings.image_limits
    )
    hand = find_hand(ctx, name, options)
    warn_of_prompts(ctx, hand.checkpoint, [prompt])
    seeds = list(files)
    with progress() as on_progress:
        on_progress(Progress("drawing", 0, len(seeds)))
        size = options.size or (hand.size(options.aspect) if pictures else None)
        given = _given(pair, pictures, size)
        size = size or next(((one.shape[1], one.shape[0]) for one in given.values()), None)
        facts = _facts(prompt, hand, size, given)
        for start in range(0, len(seeds), hand.generator.at_once):
            few = seeds[start : start + hand.generator.at_once]
            drawn = hand.draw([DrawRequest(prompt, seed) for seed in few], size, given)
            for seed, layers in zip(few, drawn, strict=True):
                yield _save(files[seed], layers, given, facts | {"seed": str(seed)})
            on_progress(Progress("drawing", start + len(few), len(seeds)))


def _given(
    pair: Pair, pictures: Mapping[Path, RGBA], size: tuple[int, int] | None
) -> dict[LayerRole, RGBA]:
    """The user's picture as a layer of the pair: one behind fills the canvas, one in front lies in its middle."""
    from curation.images.pairs import composite
    from curation.scenes.blending import canvas, on_canvas
    from curation.scenes.scene_images import cover, set_down

    if pair.on:
        behind = pictures[pair.on]
        behind = cover(behind, size) if size else behind
        return {
            LayerRole.background: composite(
                behind, canvas((behind.shape[1], behind.shape[0]), (255, 255, 255))
            )
        }
    if pair.under:
        front = pictures[pair.under]
        wanted = size or (front.shape[1], front.shape[0])
        return {LayerRole.foreground: on_canvas(*set_down(front, wanted, None, None), wanted)}
    return {}


def _facts(
    prompt: Prompt,
    hand: SceneGenerator,
    size: tuple[int, int] | None,
    given: Mapping[LayerRole, RGBA],
) -> dict[str, str]:
    texts = {
        "prompt": prompt.text,
        "foreground": prompt.foreground or "",
        "background": prompt.background or "",
    }
    return {
        **texts,
        "negative": hand.options.negative or "",
        **hand.describe(size, given),
        "version": __version__,
    }


def _save(
    paths: Mapping[LayerRole, Path],
    layers: Layers,
    given: Mapping[LayerRole, RGBA],
    facts: Mapping[str, str],
) -> dict[str, Any]:
    from curation.images.provenance import COMPOSED, DRAWN, save_picture

    for role, path in paths.items():
        source = COMPOSED if given and role is LayerRole.blended else DRAWN
        save_picture(
            path, layers[role], None if role in given else {**facts, "role": role.value}, source
        )
    return {**facts, "files": {role.value: str(path) for role, path in paths.items()}}


def draw_layers(
    path: Path,
    out: Path | None,
    name: str | None,
    options: DrawOptions,
    size: str | None,
    seed: int | None,
    formats: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Draw a scene's file into a folder, and print the paths of what is there; or only say how it would be drawn."""
    from curation.scenes.layered_files import read_formats, write_layered
    from curation.scenes.planning import plan
    from curation.scenes.scene import read_scene
    from curation.scenes.scene_images import read_pictures
    from curation.settings import Settings

    wanted = read_formats(formats)
    scene = read_scene(path, seed)
    scene = replace(scene, size=size) if size else scene
    pictures = read_pictures(scene.files, Settings().image_limits)
    steps = plan(scene)
    if dry_run:
        _print_plan(scene, steps, as_json)
        return
    from curation.cli.text_warnings import warn_of_prompts
    from curation.scenes.drawing import draw_scene

    folder = out or Path(path.stem)
    with resumable(), progress() as on_progress:
        if any(step.request for step in steps):
            with context() as ctx:
                hand = find_hand(ctx, name, options)
                asked = [step.request.prompt for step in steps if step.request]
                warn_of_prompts(ctx, hand.checkpoint, asked)
                drawn = draw_scene(scene, pictures, hand, folder, on_progress, force)
        else:
            drawn = draw_scene(scene, pictures, None, folder, on_progress, force)
    layered = write_layered(folder, drawn, wanted)
    if as_json:
        print_json(
            {"folder": str(folder), "layered": [str(one) for one in layered], **drawn.as_json()}
        )
        return
    for file in [*(folder / one for one in drawn.names), *layered]:
        print_text(file)


def _print_plan(scene: Scene, steps: Sequence[Step], as_json: bool) -> None:
    """The steps of a scene as a table, or as JSON."""
    ways = {
        "given": "set down as it is",
        "together": "drawn together",
        "under": "drawn to fit what will lie on it",
        "over": "drawn to fit what lies below",
    }
    rows: list[dict[str, Any]] = []
    for number, step in enumerate(steps, 1):
        asked = step.request
        for place in step.places:
            one = scene.layers[place - 1] if place else scene.background
            rows.append(
                {
                    "step": number,
                    "layer": scene.layers[place - 1].name if place else "background",
                    "how": ways[step.way],
                    "file": str(one.file) if one.file else None,
                    "prompt": one.prompt,
                    "seed": asked.seed if asked else None,
                    "whole": asked.prompt.text if asked else None,
                }
            )
    columns = ("step", "layer", "how", "file", "prompt", "seed")
    print_rows(rows, {column: itemgetter(column) for column in columns}, as_json)
    if not as_json:
        talk.print(
            f"{len(rows)} layers in {len(steps)} steps; size: {scene.size or 'as the checkpoint draws'}"
        )
