"""`layerloop draw`: transparent pictures from prompts, in files that say how they were made; pairs and scenes too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation import __version__
from curation.cli import scenes
from curation.cli.loras import Lora, register_styled
from curation.cli.output import Json, context, print_json, print_text, progress
from curation.domain import DrawRequest, LayerRole, Progress, Prompt
from curation.errors import Refused
from curation.scenes.sizes import read_size

if TYPE_CHECKING:
    from curation.ports import DrawOptions
    from curation.runtime.context import AppContext


class Sampler(StrEnum):
    """The samplers that generators of pretrained models know; their table stands in training."""

    ddim = "ddim"
    euler = "euler"
    euler_a = "euler_a"
    dpm_2m = "dpm++2m"
    unipc = "unipc"


def draw(
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw; of a pair the foreground.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file (layer.png), named also by seed with --count, by role with pairs; a scene's folder."
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(help="So many pictures, of one seed after another.", min=1)
    ] = 1,
    seed: Annotated[
        int | None, typer.Option(help="The same prompt, seed and checkpoint give the same picture.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Which draws; by default the promoted one.")
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="What lies behind: a foreground, a background and both.")
    ] = None,
    whole: Annotated[
        str | None, typer.Option(help="What a pair shows together; by default both its prompts.")
    ] = None,
    on: Annotated[
        Path | None,
        typer.Option(help="Your own background, any photograph: the foreground will fit."),
    ] = None,
    under: Annotated[
        Path | None, typer.Option(help="Your own foreground with alpha: the background will fit.")
    ] = None,
    layers: Annotated[
        Path | None, typer.Option(help="A scene of any number of layers, as a TOML file.")
    ] = None,
    lora: Lora = None,
    negative: Annotated[str | None, typer.Option(help="A prompt for what is not wanted.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; more are slower.", min=1)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strictly the prompt is followed.", min=0)
    ] = None,
    sampler: Annotated[
        Sampler | None, typer.Option(help="How noise becomes a picture; else the model's.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels, like 832x1216, or an aspect, like 2:3.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to begin from, with its alpha.")
    ] = None,
    strength: Annotated[
        float, typer.Option(help="How much of --image is drawn anew.", min=0.01, max=1)
    ] = 0.75,
    upscale: Annotated[
        float, typer.Option(help="Enlarge the result so many times, with new detail.", min=1)
    ] = 1.0,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="png or webp (else --out's); of a scene also psd, ora, tiff: psd,ora."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Write over files that are there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how a scene would be drawn, and draw nothing.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(help="Say how a drawn file was made, and draw nothing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw transparent pictures, pairs that fit, or scenes; their paths on stdout, how they were made in the files."""
    from curation.images.provenance import read_provenance
    from curation.ports import DrawOptions

    if show is not None:
        facts = read_provenance(show)
        print_json(facts) if as_json else print_text(
            "\n".join(f"{name}: {value}" for name, value in facts.items())
        )
        return
    paired = any(one is not None for one in (background, whole, on, under))
    if (paired or layers) and (image or upscale != 1):
        raise Refused(
            "layers that fit each other are not begun from an image, nor enlarged", "leave that out"
        )
    if lora and not dry_run:
        with context() as ctx:
            checkpoint = register_styled(ctx, scenes.find_checkpoint(ctx, checkpoint), lora).id
    named = sampler.value if sampler else None
    options = DrawOptions(
        negative, steps, guidance, *read_size(size), named, None, strength, upscale
    )
    if layers is not None:
        if paired or prompt is not None or count != 1:
            raise Refused(
                "a scene's file says what to draw",
                "beside --layers leave out prompts, pictures and --count",
            )
        scenes.draw_layers(
            layers, out, checkpoint, options, size, seed, file_format, dry_run, force, as_json
        )
        return
    if dry_run:
        raise Refused("only scenes are planned", "give a scene's file with --layers")
    seeds = range(seed or 0, (seed or 0) + count)
    files = _files(out or Path("layer.png"), file_format, seeds)
    if paired:
        pair = scenes.Pair(prompt, background, whole, on, under)
        pair.prompt()
        drawn = _pairs(pair, checkpoint, files, options, force)
    else:
        drawn = _singles(prompt, checkpoint, files, options, force, image)
    if as_json:
        print_json(drawn)
        return
    for one in drawn:
        for path in one["files"].values() if paired else [one["path"]]:
            print_text(path)


def _pairs(
    pair: scenes.Pair,
    checkpoint: str | None,
    files: Mapping[int, Path],
    options: DrawOptions,
    force: bool,
) -> list[dict[str, Any]]:
    roles = (LayerRole.foreground, LayerRole.background, LayerRole.blended)
    paths = {
        seed: {role: path.with_name(f"{path.stem}-{role}{path.suffix}") for role in roles}
        for seed, path in files.items()
    }
    _check_free([path for few in paths.values() for path in few.values()], force)
    with context() as ctx:
        return list(scenes.draw_pairs(ctx, checkpoint, pair, paths, options))


def _singles(
    prompt: str | None,
    checkpoint: str | None,
    files: Mapping[int, Path],
    options: DrawOptions,
    force: bool,
    image: Path | None,
) -> list[dict[str, Any]]:
    from curation.scenes.scene_images import read_pictures
    from curation.settings import Settings

    if prompt is None:
        raise Refused("there is no prompt", "say what to draw: layerloop draw 'a glass bottle'")
    _check_free(list(files.values()), force)
    if image and (options.size or options.aspect):
        raise Refused("a picture brings its own size", "leave out --size, or --image")
    begun = read_pictures([image], Settings().image_limits)[image] if image else None
    with context() as ctx:
        if begun is not None:
            from curation.images.codec import encode_layer

            options = replace(options, image=ctx.store.put(encode_layer(begun)))
        return list(_draw(ctx, checkpoint, prompt, files, options))


def _check_free(paths: Sequence[Path], force: bool) -> None:
    """Raises Refused where a file would be written over that nobody gave up."""
    taken = [str(path) for path in paths if path.exists()]
    if taken and not force:
        raise Refused(
            f"{taken[0]} is there already",
            "give another name with --out, or --force to write over it",
        )


def _draw(
    ctx: AppContext,
    name: str | None,
    prompt: str,
    files: Mapping[int, Path],
    options: DrawOptions,
) -> Iterator[dict[str, str]]:
    """Draw and write a few at a time; what each file says of itself, and its path."""
    from curation.cli.text_warnings import warn_of_prompts
    from curation.images.provenance import save_picture
    from curation.runtime.context import load

    drawing = scenes.find_checkpoint(ctx, name)
    warn_of_prompts(ctx, drawing, [Prompt(prompt)])
    seeds = list(files)
    with progress() as on_progress:
        on_progress(Progress("drawing", 0, len(seeds)))
        generator = load(ctx.settings.generator)(drawing, ctx.store)
        made = {
            "prompt": prompt,
            "negative": options.negative or "",
            **generator.describe(options),
            "checkpoint": drawing.id,
            "preset": drawing.preset,
            "version": __version__,
        }
        for start in range(0, len(seeds), generator.at_once):
            few = seeds[start : start + generator.at_once]
            layers = generator.draw([DrawRequest(Prompt(prompt), seed) for seed in few], options)
            for seed, layer in zip(few, layers, strict=True):
                facts = made | {"seed": str(seed)}
                save_picture(files[seed], layer[LayerRole.foreground], facts)
                yield {"path": str(files[seed]), **facts}
            on_progress(Progress("drawing", start + len(few), len(seeds)))


def _files(out: Path, file_format: str | None, seeds: range) -> dict[int, Path]:
    """The file of every seed. Raises Refused for a format that is not written."""
    suffix = f".{file_format}" if file_format else out.suffix or ".png"
    if suffix.lower() not in {".png", ".webp"}:
        raise Refused(f"pictures are not written as {suffix!r}", "choose --format png or webp")
    names = (
        [out.with_suffix(suffix)]
        if len(seeds) == 1
        else [out.with_name(f"{out.stem}-{s}{suffix}") for s in seeds]
    )
    return dict(zip(seeds, names, strict=True))
