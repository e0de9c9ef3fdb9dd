"""Pairs and scenes of `layerloop generate`: options --background, --on, --under, --layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import __version__
from curation.cli.output import (
    console,
    context,
    print_json,
    print_rows,
    print_text,
    progress,
    resume_hint,
)
from curation.domain import Checkpoint, GenerationRequest, LayerRole, Progress, Prompt
from curation.errors import NotFound, Refused

if TYPE_CHECKING:
    from curation.ports import RGBA, GenerationOptions, Layers
    from curation.runtime.context import AppContext
    from curation.scenes.layer_source import SceneGenerator
    from curation.scenes.planning import SceneStep
    from curation.scenes.scene import Scene


@dataclass(frozen=True)
class PairInputs:
    """The inputs of a pair: prompts of both layers and the composite; an image may replace one."""

    foreground: str | None
    background: str | None
    whole: str | None
    on: Path | None  # the user's background
    under: Path | None  # the user's foreground

    def prompt(self) -> Prompt:
        """Return the generator's prompt. Raises Refused if options are missing or conflict."""
        if self.on and self.under:
            raise Refused("--on and --under leave no layer to generate", "leave out one of them")
        if self.under and self.background is None:
            raise Refused(
                "there is no prompt for the background",
                "for example --background 'a snowy forest'",
            )
        if self.foreground is None and not self.under:
            raise Refused(
                "there is no prompt",
                "for example: layerloop generate 'a fox' --background 'a snowy forest'",
            )
        if self.background is None and not self.on:
            raise Refused(
                "a pair needs a background",
                "give --background TEXT or --on FILE",
            )
        text = self.whole or ", ".join(filter(None, [self.foreground, self.background]))
        return Prompt(text, self.foreground, self.background)


def open_scene_generator(
    ctx: AppContext, name: str | None, options: GenerationOptions
) -> SceneGenerator:
    """Return a layer source of the named or promoted checkpoint, loaded lazily. Raises NotFound."""
    from curation.runtime.context import load_object
    from curation.scenes.layer_source import SceneGenerator

    checkpoint = find_checkpoint(ctx, name)
    return SceneGenerator(
        checkpoint,
        lambda: load_object(ctx.settings.generator)(checkpoint, ctx.store),
        ctx.store,
        options,
    )


def find_checkpoint(ctx: AppContext, name: str | None) -> Checkpoint:
    """Return the named or promoted checkpoint. Raises NotFound, TakenDown."""
    from curation.checkpoints import registry, taint

    with ctx.database.transaction() as tx:
        if name is not None:
            found = registry.find_checkpoint(tx, name)
            taint.refuse_tainted(tx, found.id)
            return found
        promoted = registry.find_promoted_checkpoint(tx)
    if promoted is None:
        raise NotFound(
            "no checkpoint is promoted yet",
            "give one with --checkpoint, or run 'layerloop checkpoint promote NAME'",
        )
    return promoted


def generate_pairs(
    ctx: AppContext,
    name: str | None,
    pair: PairInputs,
    files: Mapping[int, Mapping[LayerRole, Path]],
    options: GenerationOptions,
) -> Iterator[dict[str, Any]]:
    """Generate a pair for every seed and write its three files.

    Args:
        ctx: The app context.
        name: The checkpoint's id or a prefix of it; None is the promoted one.
        pair: The prompts and images of the pair.
        files: The output files by seed and role.
        options: The options of the generator.

    Yields:
        The metadata and the paths of each pair.
    """
    from curation.cli.text_warnings import warn_of_prompts
    from curation.scenes.scene_images import decode_images

    prompt = pair.prompt()
    images = decode_images(
        [path for path in (pair.on, pair.under) if path], ctx.settings.image_limits
    )
    source = open_scene_generator(ctx, name, options)
    warn_of_prompts(ctx, source.checkpoint, [prompt])
    seeds = list(files)
    with progress() as on_progress:
        on_progress(Progress("generating", 0, len(seeds)))
        # A given image is fitted to the requested size, or determines it.
        size = options.size or (source.size(options.aspect) if images else None)
        given = _given(pair, images, size)
        size = size or next(((rgba.shape[1], rgba.shape[0]) for rgba in given.values()), None)
        metadata = _metadata(prompt, source, size, given)
        # Files are written after each batch, so that an interruption keeps the finished ones.
        for start in range(0, len(seeds), source.generator.batch_size):
            batch = seeds[start : start + source.generator.batch_size]
            drawn = source.generate(
                [GenerationRequest(prompt, seed) for seed in batch], size, given
            )
            for seed, layers in zip(batch, drawn, strict=True):
                yield _save(files[seed], layers, given, metadata | {"seed": str(seed)})
            on_progress(Progress("generating", start + len(batch), len(seeds)))


def _given(
    pair: PairInputs, images: Mapping[Path, RGBA], size: tuple[int, int] | None
) -> dict[LayerRole, RGBA]:
    """Return the user's image as a layer, a background cropped to size or a foreground centered."""
    from curation.images.pairs import composite
    from curation.scenes.blending import new_canvas, place_on_canvas
    from curation.scenes.scene_images import cover, place_image

    if pair.on:
        behind = images[pair.on]
        behind = cover(behind, size) if size else behind
        return {
            LayerRole.background: composite(
                behind, new_canvas((behind.shape[1], behind.shape[0]), (255, 255, 255))
            )
        }
    if pair.under:
        front = images[pair.under]
        wanted = size or (front.shape[1], front.shape[0])
        return {
            LayerRole.foreground: place_on_canvas(*place_image(front, wanted, None, None), wanted)
        }
    return {}


def _metadata(
    prompt: Prompt,
    source: SceneGenerator,
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
        "negative": source.options.negative or "",
        **source.describe(size, given),
        "version": __version__,
    }


def _save(
    paths: Mapping[LayerRole, Path],
    layers: Layers,
    given: Mapping[LayerRole, RGBA],
    metadata: Mapping[str, str],
) -> dict[str, Any]:
    from curation.images.provenance import COMPOSED, GENERATED, save_image

    # A given layer gets no metadata, and the composite is marked as partly generated.
    for role, path in paths.items():
        source = COMPOSED if given and role is LayerRole.blended else GENERATED
        save_image(
            path, layers[role], None if role in given else {**metadata, "role": role.value}, source
        )
    return {**metadata, "files": {role.value: str(path) for role, path in paths.items()}}


def generate_scene(
    path: Path,
    out: Path | None,
    name: str | None,
    options: GenerationOptions,
    size: str | None,
    seed: int | None,
    formats: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Generate a scene into a folder and print the paths of its files, or print only its steps."""
    from curation.scenes.layered_files import parse_formats, write_layered_files
    from curation.scenes.planning import plan_steps
    from curation.scenes.scene import load_scene
    from curation.scenes.scene_images import decode_images
    from curation.settings import Settings

    # Read the scene and all its images before a checkpoint is loaded.
    wanted = parse_formats(formats)
    scene = load_scene(path, seed)
    scene = replace(scene, size=size) if size else scene
    images = decode_images(scene.files, Settings().image_limits)
    steps = plan_steps(scene)
    if dry_run:
        _print_plan(scene, steps, as_json)
        return
    from curation.cli.text_warnings import warn_of_prompts
    from curation.scenes.drawing import generate_scene

    # A scene of given images only needs no checkpoint.
    folder = out or Path(path.stem)
    with resume_hint(), progress() as on_progress:
        if any(step.request for step in steps):
            with context() as ctx:
                source = open_scene_generator(ctx, name, options)
                prompts = [step.request.prompt for step in steps if step.request]
                warn_of_prompts(ctx, source.checkpoint, prompts)
                drawn = generate_scene(scene, images, source, folder, on_progress, force)
        else:
            drawn = generate_scene(scene, images, None, folder, on_progress, force)
    # Files of layered formats are written last, from the finished layers.
    layered = write_layered_files(folder, drawn, wanted)
    if as_json:
        print_json(
            {"folder": str(folder), "layered": [str(file) for file in layered], **drawn.as_json()}
        )
        return
    for file in [*(folder / name for name in drawn.names), *layered]:
        print_text(file)


def _print_plan(scene: Scene, steps: Sequence[SceneStep], as_json: bool) -> None:
    """Print the steps of a scene as a table or as JSON."""
    methods = {
        "given": "placed unchanged",
        "together": "generated together",
        "under": "generated to fit the layer above",
        "over": "generated to fit the layers below",
    }
    # One row per layer; layers of one step are generated together.
    rows: list[dict[str, Any]] = []
    for number, step in enumerate(steps, 1):
        request = step.request
        for index in step.places:
            layer = scene.layers[index - 1] if index else scene.background
            rows.append(
                {
                    "step": number,
                    "layer": scene.layers[index - 1].name if index else "background",
                    "how": methods[step.way],
                    "file": str(layer.file) if layer.file else None,
                    "prompt": layer.prompt,
                    "seed": request.seed if request else None,
                    "whole": request.prompt.text if request else None,
                }
            )
    columns = ("step", "layer", "how", "file", "prompt", "seed")
    print_rows(rows, {column: itemgetter(column) for column in columns}, as_json)
    if not as_json:
        size = scene.size or "the checkpoint's"
        console.print(f"{len(rows)} layers in {len(steps)} steps; size: {size}")
