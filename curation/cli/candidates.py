"""Commands for candidates (data engineers)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    MAX_ID,
    Json,
    console,
    context,
    print_json,
    print_text,
    warn,
)
from curation.domain import CandidateState, LayerRole
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.rounds.redraw import GeneratedCandidate, LayerDifference, Redraw

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    number: Annotated[
        int | None,
        typer.Option("--round", help="Only candidates of this round.", min=1, max=MAX_ID),
    ] = None,
    state: Annotated[
        CandidateState | None, typer.Option(help="Only candidates in this state.")
    ] = None,
    limit: Limit = 100,
    after: Annotated[
        uuid.UUID | None, typer.Option(help="List candidates after this one, by its id.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List candidates by round, with prompt, seed, state, flags and layers."""
    from curation.rounds.candidate_list import list_candidates

    with context() as ctx, ctx.database.transaction() as tx:
        rows = list_candidates(tx, number, state, query_limit(limit), after)
    # The columns of the table; JSON output has all fields of the rows.
    columns = {
        "candidate": lambda r: r["id"].hex[:12],
        "round": lambda r: r["round"],
        "state": lambda r: r["state"],
        "seed": lambda r: r["seed"],
        "prompt": lambda r: r["prompt"],
        "flags": lambda r: ", ".join(r["flags"]),
        "note": lambda r: r["note"],
        "changed": lambda r: r["changed_at"],
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def redraw(
    candidate: Annotated[str, typer.Argument(help="An id, or the first eight or more digits.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the image here (PNG or WebP); pairs append the role."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite existing files.")] = False,
    as_json: Json = False,
) -> None:
    """Generate a candidate again, and compare it with what is stored, bit by bit.

    Prompt, seed, checkpoint, steps, guidance and size are the recorded ones. Settings that differ
    by now are named: device, precision, batch, versions. Without a recorded setting, as for
    candidates of earlier versions, those of the checkpoint are taken.
    """
    from curation.checkpoints.registry import find_checkpoint
    from curation.images.codec import decode_layer
    from curation.rounds import redraw as redrawing
    from curation.runtime.context import load_object

    with context() as ctx:
        with ctx.database.transaction() as tx:
            found = redrawing.find_generated(tx, candidate)
            checkpoint = find_checkpoint(tx, found.checkpoint)
        paths = _paths(out, found, force=force) if out else {}
        generator = load_object(ctx.settings.generator)(checkpoint, ctx.store)
        drawn = redrawing.redraw(generator, found)
        stored = {role: decode_layer(ctx.store.get(sha)) for role, sha in found.layers.items()}
        differences = redrawing.compare_layers(stored, drawn.layers)
    _save(paths, found, drawn)
    if as_json:
        print_json(
            {
                "candidate": found.id.hex,
                "seed": found.request.seed,
                "checkpoint": found.checkpoint,
                "equal": all(one.equal for one in differences.values()),
                "layers": {str(role): asdict(one) for role, one in differences.items()},
                "recorded": found.settings,
                "changed_settings": drawn.changed_settings,
                "files": {str(role): str(path) for role, path in paths.items()},
            }
        )
        return
    for role, difference in differences.items():
        print_text(f"{role}: {_difference_text(difference)}")
    _print_settings(found, drawn, differences)


def _paths(out: Path, found: GeneratedCandidate, *, force: bool) -> dict[LayerRole, Path]:
    """Return the file of each layer. Raises Refused before anything is generated."""
    if out.suffix.lower() not in (".png", ".webp"):
        raise Refused(f"unsupported image format {out.suffix!r}", "name a .png or .webp file")
    paths = {role: out.with_name(f"{out.stem}-{role}{out.suffix}") for role in found.layers}
    if len(found.layers) == 1:
        paths = dict.fromkeys(found.layers, out)
    taken = [path for path in paths.values() if path.exists()]
    if taken and not force:
        raise Refused(f"{taken[0]} exists already", "give another --out, or --force")
    return paths


def _save(paths: Mapping[LayerRole, Path], found: GeneratedCandidate, drawn: Redraw) -> None:
    from curation.images.provenance import save_image

    request = found.request
    metadata = {"prompt": request.prompt.text, **drawn.settings, "checkpoint": found.checkpoint}
    metadata |= {"seed": str(request.seed), "candidate": found.id.hex}
    for role, path in paths.items():
        save_image(path, drawn.layers[role], metadata)
        console.print(f"wrote {path}")


def _difference_text(one: LayerDifference) -> str:
    if one.equal:
        return f"equal to the bit (pixels {one.stored_pixels[:12]})"
    if one.max_alpha is None:
        return "another size"
    if one.psnr is None:
        return "visible pixels are equal, hidden colors differ"
    return (
        f"differs: alpha by at most {one.max_alpha:.0f} and {one.mean_alpha:.4f} on average, "
        f"premultiplied color by at most {one.max_color:.1f} and {one.mean_color:.4f}, "
        f"of 255; PSNR {one.psnr:.1f} dB"
    )


def _print_settings(
    found: GeneratedCandidate, drawn: Redraw, differences: Mapping[LayerRole, LayerDifference]
) -> None:
    """Print which recorded settings differ by now, or that none does."""
    for name, (before, now) in drawn.changed_settings.items():
        print_text(f"  {name}: {before} when generated, {now} now")
    if found.settings is None:
        console.print("its settings were not recorded: those of the checkpoint were taken")
    elif not drawn.changed_settings and not all(one.equal for one in differences.values()):
        warn("no recorded setting differs, so that the pixels should be equal")
