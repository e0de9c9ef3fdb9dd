"""The command that compares a checkpoint with generating opaque images and matting them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.evaluation import CheckpointArgument
from curation.cli.output import Json, console, context, print_json, print_rows, progress
from curation.domain import GenerationRequest, Prompt
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.ports import MattingComparison
    from curation.reporting.matting_comparison import JudgedMethod


def compare(
    name: CheckpointArgument,
    count: Annotated[
        int, typer.Option(help="Number of prompts, each generated in both ways.", min=1)
    ] = 24,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text file with one prompt per line, or pair prompts as JSON lines; '# ' begins "
            "a comment. Default: captions of seeds."
        ),
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(
            help="Snapshot that the rule reviewer is fitted to; default: the checkpoint's."
        ),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="Segmentation model for the trimap, a hub name or a folder; default: GrabCut."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of the first image; it increases by 1 per image.")
    ] = 0,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG with both ways side by side to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a checkpoint with generate-then-matte on the same prompts.

    Prints the screening signals of both, and the defects per 100 images by the rule reviewer.
    """
    from curation.checkpoints import registry
    from curation.datasets import snapshots
    from curation.loops.prompts import choose_prompts
    from curation.object_store import write_file_atomically
    from curation.prompts.files import read_prompt_file
    from curation.reporting.matting_comparison import compare_methods
    from curation.runtime.context import load_object
    from curation.screening.rule_reviewer import fit_rule_reviewer

    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
    # Resolve the checkpoint, the snapshot for the rule reviewer, and the prompts.
    with context() as ctx:
        with ctx.database.transaction() as tx:
            checkpoint = registry.find_checkpoint(tx, name)
            on = snapshots.find_snapshot(tx, snapshot or checkpoint.snapshot or "latest")
            if prompts:
                given = read_prompt_file(prompts).prompts
                texts = [prompt.foreground or prompt.text for prompt in given]
            else:
                texts = [prompt.text for prompt in choose_prompts(tx, count, seed)]
        if not texts:
            raise Refused("there are no prompts", "give a file of prompts with --prompts")

        # Generate every request in both ways, repeating the prompts where they are too few.
        rule_reviewer = fit_rule_reviewer(ctx.store, on)
        repeated = list(itertools.islice(itertools.cycle(texts), count))
        requests = [GenerationRequest(Prompt(text), seed + i) for i, text in enumerate(repeated)]
        with progress() as on_progress:
            comparison: MattingComparison = load_object(ctx.settings.comparer)(
                checkpoint, ctx.store, requests, segmenter, on_progress
            )

    # Judge both ways by the same signals and rules.
    layers = {"with alpha": comparison.layers, "matted": comparison.matted}
    judged = compare_methods(layers, repeated, rule_reviewer)
    if sheet:
        write_file_atomically(sheet, comparison.sheet)
    if as_json:
        ways = {name: asdict(way) for name, way in judged.items()}
        found = {
            "checkpoint": checkpoint.id,
            "snapshot": on,
            "how": comparison.metadata,
            "ways": ways,
        }
        print_json(found)
        return
    _print_ways(judged)
    for setting, value in comparison.metadata.items():
        console.print(f"{setting}: {value}")


def _print_ways(judged: Mapping[str, JudgedMethod]) -> None:
    # One row per metric, one column per way.
    defects: dict[str, object] = {
        way: f"{found.defects:.1f} ({found.low:.1f} to {found.high:.1f})"
        for way, found in judged.items()
    }
    rows: list[dict[str, object]] = [{"": "defects per 100 (95 % CI)", **defects}]
    only = {way: found.only for way, found in judged.items()}
    rows.append({"": "defects only here", **only})
    rows += [
        {"": signal, **{way: found.signals[signal] for way, found in judged.items()}}
        for signal in next(iter(judged.values())).signals
    ]
    columns = {name: (lambda row, name=name: row[name]) for name in ("", *judged)}
    print_rows(rows, columns, as_json=False)
    for way, found in judged.items():
        reasons = ", ".join(f"{reason} {times}" for reason, times in found.reasons.items())
        console.print(f"{way}, {found.layers} images: {reasons or 'no defects'}")
