"""`layerloop generate`: transparent images, pairs and scenes from prompts, with metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation import __version__
from curation.cli import scenes
from curation.cli.loras import Lora, register_with_loras
from curation.cli.output import Json, context, print_json, print_text, progress
from curation.domain import GenerationRequest, LayerRole, Progress, Prompt
from curation.errors import Refused
from curation.scenes.sizes import parse_size

if TYPE_CHECKING:
    from curation.ports import GenerationOptions
    from curation.runtime.context import AppContext


class SamplerName(StrEnum):
    """The samplers of pretrained models; the training package has their definitions."""

    ddim = "ddim"
    euler = "euler"
    euler_a = "euler_a"
    dpm_2m = "dpm++2m"
    unipc = "unipc"


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; for pairs the foreground's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output file (default layer.png); --count appends the seed, pairs append the "
            "role. For a scene a folder."
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(help="Number of images, with consecutive seeds.", min=1)
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(help="Random seed; equal prompt, seed and checkpoint repeat an image."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="The checkpoint to use; default: the promoted one.")
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(help="Prompt of the background; generates a pair and its composite."),
    ] = None,
    whole: Annotated[
        str | None,
        typer.Option(help="Prompt of the composite of a pair; default: both prompts joined."),
    ] = None,
    on: Annotated[
        Path | None,
        typer.Option(help="Your own background image; the foreground is generated to fit it."),
    ] = None,
    under: Annotated[
        Path | None,
        typer.Option(help="Your own foreground with alpha; the background is generated to fit it."),
    ] = None,
    layers: Annotated[
        Path | None, typer.Option(help="A scene with any number of layers, as a TOML file.")
    ] = None,
    lora: Lora = None,
    negative: Annotated[str | None, typer.Option(help="The negative prompt.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of denoising steps.", min=1)] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale.", min=0)
    ] = None,
    sampler: Annotated[
        SamplerName | None, typer.Option(help="The sampler; default: the model's.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Image size in pixels (832x1216), or aspect ratio (2:3).")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Image with alpha to start from (image-to-image).")
    ] = None,
    strength: Annotated[
        float, typer.Option(help="Denoising strength of image-to-image.", min=0.01, max=1)
    ] = 0.75,
    upscale: Annotated[
        float, typer.Option(help="Upscaling factor of the result, with new detail.", min=1)
    ] = 1.0,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="png or webp (default: --out's suffix); scenes also psd, ora, tiff, as psd,ora.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite existing files.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps of a scene without generating it.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(help="Print the provenance of a generated file, and exit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate transparent images, pairs or scenes, and print the paths of their files.

    Every file holds its prompt, seed, checkpoint and options as metadata.
    """
    from curation.images.provenance import read_provenance
    from curation.ports import GenerationOptions

    if show is not None:
        metadata = read_provenance(show)
        print_json(metadata) if as_json else print_text(
            "\n".join(f"{name}: {value}" for name, value in metadata.items())
        )
        return

    # Pairs and scenes support fewer options than single images.
    paired = any(option is not None for option in (background, whole, on, under))
    if (paired or layers) and (image or upscale != 1):
        raise Refused(
            "pairs and scenes support neither --image nor --upscale", "leave these options out"
        )
    if lora and not dry_run:
        with context() as ctx:
            checkpoint = register_with_loras(ctx, scenes.find_checkpoint(ctx, checkpoint), lora).id
    sampler_name = sampler.value if sampler else None
    options = GenerationOptions(
        negative, steps, guidance, *parse_size(size), sampler_name, None, strength, upscale
    )

    # A scene: its file has the prompts and images, and a dry run prints its steps.
    if layers is not None:
        if paired or prompt is not None or count != 1:
            raise Refused(
                "a scene file defines its prompts and images",
                "with --layers leave out prompts, images and --count",
            )
        scenes.generate_scene(
            layers, out, checkpoint, options, size, seed, file_format, dry_run, force, as_json
        )
        return
    if dry_run:
        raise Refused("only scenes have a dry run", "give a scene file with --layers")

    # Pairs and single images: one file, or one set of files, per seed.
    seeds = range(seed or 0, (seed or 0) + count)
    files = _output_files(out or Path("layer.png"), file_format, seeds)
    if paired:
        pair = scenes.PairInputs(prompt, background, whole, on, under)
        pair.prompt()  # missing or surplus options must fail before a checkpoint is looked up
        results = _generate_pairs(pair, checkpoint, files, options, force)
    else:
        results = _generate_images(prompt, checkpoint, files, options, force, image)
    if as_json:
        print_json(results)
        return
    for result in results:
        for path in result["files"].values() if paired else [result["path"]]:
            print_text(path)


def _generate_pairs(
    pair: scenes.PairInputs,
    checkpoint: str | None,
    files: Mapping[int, Path],
    options: GenerationOptions,
    force: bool,
) -> list[dict[str, Any]]:
    roles = (LayerRole.foreground, LayerRole.background, LayerRole.blended)
    paths = {
        seed: {role: path.with_name(f"{path.stem}-{role}{path.suffix}") for role in roles}
        for seed, path in files.items()
    }
    # Check all files before anything is generated.
    _check_overwriting([path for by_role in paths.values() for path in by_role.values()], force)
    with context() as ctx:
        return list(scenes.generate_pairs(ctx, checkpoint, pair, paths, options))


def _generate_images(
    prompt: str | None,
    checkpoint: str | None,
    files: Mapping[int, Path],
    options: GenerationOptions,
    force: bool,
    image: Path | None,
) -> list[dict[str, Any]]:
    from curation.scenes.scene_images import decode_images
    from curation.settings import Settings

    if prompt is None:
        raise Refused("there is no prompt", "for example: layerloop generate 'a glass bottle'")
    _check_overwriting(list(files.values()), force)
    if image and (options.size or options.aspect):
        raise Refused("--image determines the size", "leave out --size or --image")
    start_image = decode_images([image], Settings().image_limits)[image] if image else None
    with context() as ctx:
        # Generators read the start image from the object store, by its hash.
        if start_image is not None:
            from curation.images.codec import encode_layer

            options = replace(options, image=ctx.store.put(encode_layer(start_image)))
        return list(_generate_batches(ctx, checkpoint, prompt, files, options))


def _check_overwriting(paths: Sequence[Path], force: bool) -> None:
    """Raise Refused if a file exists and may not be overwritten."""
    existing = [str(path) for path in paths if path.exists()]
    if existing and not force:
        raise Refused(
            f"{existing[0]} exists already",
            "give another name with --out, or --force to overwrite it",
        )


def _generate_batches(
    ctx: AppContext,
    name: str | None,
    prompt: str,
    files: Mapping[int, Path],
    options: GenerationOptions,
) -> Iterator[dict[str, str]]:
    """Generate and write one batch at a time; yield the metadata and path of each file."""
    from curation.cli.text_warnings import warn_of_prompts
    from curation.images.content_credentials import open_signer
    from curation.images.provenance import save_image
    from curation.runtime.context import load_object

    signer = open_signer(ctx.settings.content_certificate, ctx.settings.content_key)
    checkpoint = scenes.find_checkpoint(ctx, name)
    warn_of_prompts(ctx, checkpoint, [Prompt(prompt)])
    seeds = list(files)
    with progress() as on_progress:
        on_progress(Progress("generating", 0, len(seeds)))
        generator = load_object(ctx.settings.generator)(checkpoint, ctx.store)
        common = {
            "prompt": prompt,
            "negative": options.negative or "",
            **generator.describe(options),
            "checkpoint": checkpoint.id,
            "preset": checkpoint.preset,
            "version": __version__,
        }
        # Files are written after each batch, so that an interruption keeps the finished ones.
        for start in range(0, len(seeds), generator.batch_size):
            batch = seeds[start : start + generator.batch_size]
            layers = generator.generate(
                [GenerationRequest(Prompt(prompt), seed) for seed in batch], options
            )
            for seed, layer in zip(batch, layers, strict=True):
                metadata = common | {"seed": str(seed)}
                image = layer[LayerRole.foreground]
                save_image(files[seed], image, metadata, signer=signer)
                yield {"path": str(files[seed]), **metadata}
            on_progress(Progress("generating", start + len(batch), len(seeds)))


def _output_files(out: Path, file_format: str | None, seeds: range) -> dict[int, Path]:
    """Return the output file of every seed. Raises Refused for an unsupported format."""
    suffix = f".{file_format}" if file_format else out.suffix or ".png"
    if suffix.lower() not in {".png", ".webp"}:
        raise Refused(f"unsupported image format {suffix!r}", "choose --format png or webp")
    names = (
        [out.with_suffix(suffix)]
        if len(seeds) == 1
        else [out.with_name(f"{out.stem}-{seed}{suffix}") for seed in seeds]
    )
    return dict(zip(seeds, names, strict=True))
