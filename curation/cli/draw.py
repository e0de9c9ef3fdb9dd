"""`layerloop draw`: a transparent picture from a prompt, in a file that says how it was made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation import __version__
from curation.cli.show import Json, house, print_json, progress
from curation.domain import Checkpoint, DrawRequest, LayerRole, Progress, Prompt
from curation.errors import NotFound, Refused

if TYPE_CHECKING:
    from curation.house import House
    from curation.ports import DrawOptions


def draw(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    out: Annotated[Path, typer.Option(help="The file; with --count its seed is added to the name.")] = Path(
        "layer.png"
    ),
    count: Annotated[int, typer.Option(help="So many pictures, of one seed after another.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="The same prompt, seed and checkpoint give the same picture.")] = 0,
    checkpoint: Annotated[str | None, typer.Option(help="Which draws; by default the promoted one.")] = None,
    negative: Annotated[str | None, typer.Option(help="A prompt for what is not wanted.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; more are slower.", min=1)] = None,
    guidance: Annotated[float | None, typer.Option(help="How strictly the prompt is followed.", min=0)] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, euler, euler_a, dpm++2m, unipc; else the model's.")] = None,
    size: Annotated[str | None, typer.Option(help="Pixels, like 832x1216, or an aspect, like 2:3.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to begin from, with its alpha.")] = None,
    strength: Annotated[float, typer.Option(help="How much of --image is drawn anew.", min=0.01, max=1)] = 0.75,
    upscale: Annotated[float, typer.Option(help="Enlarge the result so many times, with new detail.", min=1)] = 1.0,
    file_format: Annotated[str | None, typer.Option("--format", help="png or webp; by default --out's.")] = None,
    force: Annotated[bool, typer.Option(help="Write over files that are there.")] = False,
    show: Annotated[Path | None, typer.Option(help="Say how a drawn file was made, and draw nothing.")] = None,
    as_json: Json = False,
) -> None:
    """Draw transparent pictures from a prompt; their paths on stdout, how they were made inside the files."""
    from curation.ports import DrawOptions
    from curation.provenance import read_picture, read_provenance

    if show is not None:
        facts = read_provenance(show)
        print_json(facts) if as_json else print("\n".join(f"{name}: {value}" for name, value in facts.items()))
        return
    if prompt is None:
        raise Refused("there is no prompt", "say what to draw: layerloop draw 'a glass bottle'")
    files = _files(out, file_format, range(seed, seed + count))
    taken = [str(path) for path in files.values() if path.exists()]
    if taken and not force:
        raise Refused(f"{taken[0]} is there already", "give another name with --out, or --force to write over it")
    if image and size:
        raise Refused("a picture brings its own size", "leave out --size, or --image")
    begun = read_picture(image) if image else None
    with house() as opened:
        stored = None
        if begun is not None:
            from curation.layers import encode_layer

            stored = opened.store.put(encode_layer(begun))
        options = DrawOptions(negative, steps, guidance, *_size(size), sampler, stored, strength, upscale)
        drawn = list(_draw(opened, checkpoint, prompt, files, options))
    if as_json:
        print_json(drawn)
        return
    for one in drawn:
        print(one["path"])


def _draw(
    opened: House, name: str | None, prompt: str, files: Mapping[int, Path], options: DrawOptions
) -> Iterator[dict[str, str]]:
    """Draw and write a few at a time; what each file says of itself, and its path."""
    from curation.house import load
    from curation.provenance import save_picture

    drawing = _checkpoint(opened, name)
    seeds = list(files)
    with progress() as tell:
        tell(Progress("drawing", 0, len(seeds)))
        generator = load(opened.settings.generator)(drawing, opened.store)
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
            tell(Progress("drawing", start + len(few), len(seeds)))


def _checkpoint(opened: House, name: str | None) -> Checkpoint:
    from curation import checkpoints

    with opened.database.transaction() as tx:
        if name is not None:
            return checkpoints.find_checkpoint(tx, name)
        promoted = checkpoints.promoted(tx)
    if promoted is None:
        raise NotFound(
            "no checkpoint draws yet", "name one with --checkpoint, or run 'layerloop checkpoint promote NAME'"
        )
    return promoted


def _files(out: Path, file_format: str | None, seeds: range) -> dict[int, Path]:
    """The file of every seed. Raises Refused for a format that is not written."""
    suffix = f".{file_format}" if file_format else out.suffix or ".png"
    if suffix.lower() not in {".png", ".webp"}:
        raise Refused(f"pictures are not written as {suffix!r}", "choose --format png or webp")
    names = [out.with_suffix(suffix)] if len(seeds) == 1 else [out.with_name(f"{out.stem}-{s}{suffix}") for s in seeds]
    return dict(zip(seeds, names, strict=True))


def _size(text: str | None) -> tuple[tuple[int, int] | None, float | None]:
    """Width and height, or their ratio alone. Raises Refused for anything else."""
    if text is None:
        return None, None
    found = re.fullmatch(r"(\d{1,5})([x×:])(\d{1,5})", text.strip().lower())
    width, height = (int(found[1]), int(found[3])) if found else (0, 0)
    if found and found[2] == ":" and width and height:
        return None, width / height
    if found is None or min(width, height) < 8:
        raise Refused(f"{text!r} is no size", "write pixels, like 832x1216, or an aspect, like 2:3")
    return (width, height), None
