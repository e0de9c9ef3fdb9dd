"""The command that draws prompts with a checkpoint beside drawing them opaque and matting them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.evaluation import Name
from curation.cli.output import Json, context, print_json, print_rows, progress, talk
from curation.domain import DrawRequest, Prompt
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.ports import MattingComparison
    from curation.reporting.matting_comparison import Judged


def compare(
    name: Name,
    count: Annotated[
        int, typer.Option(help="So many prompts, each drawn once in both ways.", min=1)
    ] = 24,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file, one prompt a line, or triples; '# ' begins a comment. Else seeds' captions."
        ),
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(help="Whose seeds the oracle knows; the checkpoint's own when not given."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="A segmentation model for the trimap, by name or folder; without it, GrabCut."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the first prompt; each next one's is one more.")
    ] = 0,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG of both ways side by side here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare with generate-then-matte: the same prompts, signals of both, and defects per 100 in the oracle's eyes."""
    from curation.checkpoints import registry
    from curation.datasets import snapshots
    from curation.object_store import write_file
    from curation.prompts.files import read_prompt_file
    from curation.reporting.matting_comparison import judge_ways
    from curation.runtime import loop
    from curation.runtime.context import load
    from curation.screening.rule_reviewer import fit_to_snapshot

    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
    with context() as ctx:
        with ctx.database.transaction() as tx:
            checkpoint = registry.find_checkpoint(tx, name)
            on = snapshots.find_snapshot(tx, snapshot or checkpoint.snapshot or "latest")
            if prompts:
                texts = [one.foreground or one.text for one in read_prompt_file(prompts).prompts]
            else:
                texts = [one.text for one in loop.choose_prompts(tx, count, seed)]
        if not texts:
            raise Refused("there are no prompts", "give a file of them with --prompts")
        oracle = fit_to_snapshot(ctx.store, on)
        asked = list(itertools.islice(itertools.cycle(texts), count))
        requests = [DrawRequest(Prompt(text), seed + number) for number, text in enumerate(asked)]
        with progress() as on_progress:
            beside: MattingComparison = load(ctx.settings.comparer)(
                checkpoint, ctx.store, requests, segmenter, on_progress
            )
    judged = judge_ways({"with alpha": beside.drawn, "matted": beside.cut}, asked, oracle)
    if sheet:
        write_file(sheet, beside.sheet)
    if as_json:
        ways = {name: asdict(one) for name, one in judged.items()}
        print_json({"checkpoint": checkpoint.id, "snapshot": on, "how": beside.facts, "ways": ways})
        return
    _print_ways(judged)
    for what, how in beside.facts.items():
        talk.print(f"{what}: {how}")


def _print_ways(judged: Mapping[str, Judged]) -> None:
    told: dict[str, object] = {
        way: f"{one.defects:.1f} ({one.low:.1f} to {one.high:.1f})" for way, one in judged.items()
    }
    rows: list[dict[str, object]] = [{"": "defects per 100, 95 %", **told}]
    rows += [{"": "defects here alone", **{way: one.only for way, one in judged.items()}}]
    rows += [{"": signal, **{way: one.signals[signal] for way, one in judged.items()}}
             for signal in next(iter(judged.values())).signals]  # fmt: skip
    columns = {name: (lambda row, name=name: row[name]) for name in ("", *judged)}
    print_rows(rows, columns, as_json=False)
    for way, one in judged.items():
        reasons = ", ".join(f"{reason} {times}" for reason, times in one.reasons.items())
        talk.print(f"{way}, of {one.layers}: {reasons or 'no defects'}")
