"""The command that measures a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.output import (
    ACTOR,
    Json,
    context,
    print_json,
    print_rows,
    print_text,
    progress,
    resumable,
    talk,
)
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.ports import EvaluationResult, MeanWithInterval, ObjectStore

Name = Annotated[
    str, typer.Argument(help="The checkpoint's id, or the first eight or more digits of it.")
]

MAIN = (
    "psnr",
    "psnr_inside",
    "ssim",
    "alpha_sad",
    "alpha_mse",
    "identity_psnr",
    "identity_harm_db",
    "noise_mse",
)
"""The figures that every training measures."""


def evaluate(
    name: Name,
    snapshot: Annotated[
        str | None, typer.Option(help="Whose held-out split; its own when not given.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Measure on the images of this folder; nothing of it is imported."),
    ] = None,
    views: Annotated[
        int | None, typer.Option(help="Of the alpha decoder: 1, or 8; the preset's when not given.")
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Also as the ALPHA benchmark measures, through JPEG; with its table.",
        ),
    ] = False,
    perceptual: Annotated[
        Path | None,
        typer.Option(help="Weights of LPIPS on AlexNet or VGG, as safetensors (see the README)."),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the Inception network of FID, as safetensors (see the README)."
        ),
    ] = None,
    original: Annotated[
        bool,
        typer.Option(
            "--original", help="Pictures in their own size, not fitted into the preset's."
        ),
    ] = False,
    limit: Annotated[int, typer.Option(help="So many pictures at most; 0 is all.", min=0)] = 0,
    draws: Annotated[
        int, typer.Option(help="Draw so many held-out captions, and pairs; where it can.", min=0)
    ] = 16,
    clip: Annotated[
        str | None,
        typer.Option(
            help="A CLIP of transformers, name or folder: do drawn layers show their texts?"
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG of truth beside reconstruction here.")
    ] = None,
    pairs_sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG of pairs drawn together and apart here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a checkpoint on the held-out split of a snapshot, by background too, and keep the figures.

    With --folder an external test set is measured in place: its images are judged as at an import, none is kept.
    """
    from curation.checkpoints import registry
    from curation.datasets import snapshots
    from curation.ingest.evaluation_set import read_evaluation_set
    from curation.object_store import FolderStore, OverlayStore, write_file
    from curation.ports import EvaluationOptions
    from curation.runtime.context import load

    for file in filter(None, (sheet, pairs_sheet)):
        file.parent.mkdir(parents=True, exist_ok=True)
    if folder and snapshot:
        raise Refused(
            "a folder or a snapshot is measured on, not both",
            "leave out one of --folder and --snapshot",
        )
    wanted = EvaluationOptions(
        views, published, perceptual, inception, original, limit, draws, clip
    )
    with context() as ctx:
        with ctx.database.transaction() as tx:
            checkpoint = registry.find_checkpoint(tx, name)
            own = snapshots.known(tx, checkpoint.snapshot)
            on = "" if folder else snapshots.find_snapshot(tx, snapshot or own or "latest")
        with (
            resumable("nothing is kept, the same command begins anew"),
            progress() as on_progress,
            ExitStack() as temporary,
        ):
            store: ObjectStore = ctx.store
            refused: Sequence[tuple[str, str]] = ()
            if folder:
                upper = FolderStore(
                    temporary.enter_context(TemporaryDirectory(prefix="layerloop-test-set-"))
                )
                test_set = read_evaluation_set(
                    folder, upper, on_progress, limits=ctx.settings.image_limits
                )
                on, refused, store = (
                    test_set.snapshot,
                    test_set.refused,
                    OverlayStore(upper, ctx.store),
                )
            measured: EvaluationResult = load(ctx.settings.evaluator)(
                checkpoint, on, store, wanted, on_progress
            )
        kept = not folder and measured.standard and on == checkpoint.snapshot
        if kept:
            with ctx.database.transaction() as tx:
                registry.keep_evaluation(tx, checkpoint.id, dict(measured.figures), ACTOR)
    if sheet:
        write_file(sheet, measured.sheet)
    if pairs_sheet and measured.pairs_sheet:
        write_file(pairs_sheet, measured.pairs_sheet)
    for file_name, reason in refused:
        talk.print(f"left out {file_name}: {reason}", markup=False)
    if as_json:
        told: dict[str, object] = {"checkpoint": checkpoint.id, "snapshot": None if folder else on}
        told |= {"pictures": measured.pictures, "kept": kept}
        pairs = {
            name: {whose: asdict(spread) for whose, spread in row.items()}
            for name, row in measured.pairs.items()
        }
        tables = {
            "backgrounds": measured.backgrounds,
            "published": measured.published,
            "pairs": pairs,
        }
        print_json(told | {"evaluation": measured.figures} | tables | {"notes": measured.notes})
        return
    _print_figures(measured)
    for note in [
        *measured.notes,
        *([] if kept else ["these figures are not kept beside those of its training"]),
    ]:
        talk.print(note)


def in_brief(evaluation: Mapping[str, float]) -> str:
    """The main figures of an evaluation in a line, and how many more it has."""
    main = {name: evaluation[name] for name in MAIN if name in evaluation} or dict(evaluation)
    more = len(evaluation) - len(main)
    return "  ".join(f"{name} {value:.4g}" for name, value in main.items()) + (
        f"  + {more} more" if more else ""
    )


def _print_figures(measured: EvaluationResult) -> None:
    for figure, value in measured.figures.items():
        print_text(f"{figure:<20} {value:.5g}")
    print_text()
    _print_table("over", measured.backgrounds)
    if measured.pairs:
        print_text()
        spreads = {
            name: {whose: _spread(spread) for whose, spread in row.items()}
            for name, row in measured.pairs.items()
        }
        _print_table("pairs", spreads)
    if measured.published:
        print_text()
        names = {name for row in measured.published.values() for name in row}
        ours = {name: value for name, value in measured.figures.items() if name in names}
        _print_table("published, other pictures", {"this checkpoint": ours, **measured.published})


def _spread(spread: MeanWithInterval) -> str:
    """A mean, and its interval where it has one."""
    interval = "" if spread.low is None else f" ({spread.low:.3g} to {spread.high:.3g})"
    return f"{spread.mean:.3g}{interval}"


def _print_table(title: str, rows: Mapping[str, Mapping[str, float | str]]) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    listed = [{title: row, **figures} for row, figures in rows.items()]
    columns = {name: (lambda row, name=name: row.get(name)) for name in (title, *names)}
    print_rows(listed, columns, as_json=False)
