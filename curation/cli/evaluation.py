"""The command that evaluates a checkpoint."""

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
    console,
    context,
    print_json,
    print_rows,
    print_text,
    progress,
    resume_hint,
)
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.ports import EvaluationResult, MeanWithInterval, ObjectStore

CheckpointArgument = Annotated[
    str, typer.Argument(help="The checkpoint's id, or its first eight or more digits.")
]

MAIN_METRICS = (
    "psnr",
    "psnr_inside",
    "ssim",
    "alpha_sad",
    "alpha_mse",
    "identity_psnr",
    "identity_harm_db",
    "noise_mse",
)
"""The metrics that every training run measures."""


def evaluate(
    name: CheckpointArgument,
    snapshot: Annotated[
        str | None,
        typer.Option(help="Snapshot whose held-out split is used; default: the checkpoint's."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Evaluate on the images of this folder, without importing them."),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            help="Test-time augmentations of the alpha decoder, 1 or 8; default: the preset's."
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Also use the ALPHA benchmark's protocol (with JPEG), and print its table.",
        ),
    ] = False,
    perceptual: Annotated[
        Path | None,
        typer.Option(
            help="LPIPS weights for AlexNet or VGG, as safetensors (see docs/guides/training.md)."
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            help="Weights of FID's Inception network, as safetensors (see docs/guides/training.md)."
        ),
    ] = None,
    original: Annotated[
        bool,
        typer.Option("--original", help="Use the images' original size instead of the preset's."),
    ] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of images; 0 for all.", min=0)] = 0,
    draws: Annotated[
        int,
        typer.Option(help="Number of held-out captions, and pairs, to generate images for.", min=0),
    ] = 16,
    clip: Annotated[
        str | None,
        typer.Option(
            help="CLIP model (hub name or folder) for the CLIP score of generated layers."
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a PNG of originals and reconstructions to this file.")
    ] = None,
    pairs_sheet: Annotated[
        Path | None,
        typer.Option(help="Write a PNG of pairs generated jointly and separately to this file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a checkpoint on the held-out split of a snapshot and store its metrics.

    With --folder, an external test set is evaluated in place: its images pass the checks of an
    import, but neither images nor metrics are stored.
    """
    from curation.checkpoints import registry
    from curation.datasets import snapshots
    from curation.ingest.evaluation_set import read_evaluation_set
    from curation.object_store import FolderStore, OverlayStore, write_file_atomically
    from curation.ports import EvaluationOptions
    from curation.runtime.context import load_object

    for file in filter(None, (sheet, pairs_sheet)):
        file.parent.mkdir(parents=True, exist_ok=True)
    if folder and snapshot:
        raise Refused(
            "--folder and --snapshot exclude each other",
            "leave out one of them",
        )
    options = EvaluationOptions(
        views, published, perceptual, inception, original, limit, draws, clip
    )
    # Resolve the checkpoint and the snapshot; a folder is evaluated without a snapshot.
    with context() as ctx:
        with ctx.database.transaction() as tx:
            checkpoint = registry.find_checkpoint(tx, name)
            trained_on = snapshots.find_local_snapshot(tx, checkpoint.snapshot)
            used = "" if folder else snapshots.find_snapshot(tx, snapshot or trained_on or "latest")

        # Evaluate; a folder becomes a temporary snapshot in a store on top of the instance's.
        with (
            resume_hint("nothing was stored; the same command starts again"),
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
                used, refused, store = (
                    test_set.snapshot,
                    test_set.refused,
                    OverlayStore(upper, ctx.store),
                )
            measured: EvaluationResult = load_object(ctx.settings.evaluator)(
                checkpoint, used, store, options, on_progress
            )

        # Store only metrics that are comparable with those of the checkpoint's training.
        is_stored = not folder and measured.standard and used == checkpoint.snapshot
        if is_stored:
            with ctx.database.transaction() as tx:
                registry.record_metrics(tx, checkpoint.id, dict(measured.metrics), ACTOR)

    # Write the sample grids, then print the metrics.
    if sheet:
        write_file_atomically(sheet, measured.sheet)
    if pairs_sheet and measured.pairs_grid:
        write_file_atomically(pairs_sheet, measured.pairs_grid)
    for file_name, reason in refused:
        console.print(f"skipped {file_name}: {reason}", markup=False)
    if as_json:
        header: dict[str, object] = {
            "checkpoint": checkpoint.id,
            "snapshot": None if folder else used,
        }
        header |= {"images": measured.images, "kept": is_stored}
        pairs = {
            name: {source: asdict(mean) for source, mean in row.items()}
            for name, row in measured.pairs.items()
        }
        tables = {
            "backgrounds": measured.backgrounds,
            "published": measured.published,
            "pairs": pairs,
        }
        print_json(header | {"evaluation": measured.metrics} | tables | {"notes": measured.notes})
        return
    _print_metrics(measured)
    not_stored = [] if is_stored else ["these metrics are not stored with the checkpoint"]
    for note in [*measured.notes, *not_stored]:
        console.print(note)


def format_metrics(evaluation: Mapping[str, float]) -> str:
    """Return the main metrics of an evaluation in one line, with the number of further ones."""
    main = {name: evaluation[name] for name in MAIN_METRICS if name in evaluation} or dict(
        evaluation
    )
    more = len(evaluation) - len(main)
    return "  ".join(f"{name} {value:.4g}" for name, value in main.items()) + (
        f"  + {more} more" if more else ""
    )


def _print_metrics(measured: EvaluationResult) -> None:
    for metric, value in measured.metrics.items():
        print_text(f"{metric:<20} {value:.5g}")
    print_text()
    # Then the tables: by background, of pairs, and beside published results.
    _print_table("background", measured.backgrounds)
    if measured.pairs:
        print_text()
        means = {
            name: {source: _format_mean(mean) for source, mean in row.items()}
            for name, row in measured.pairs.items()
        }
        _print_table("pairs", means)
    if measured.published:
        print_text()
        names = {name for row in measured.published.values() for name in row}
        ours = {name: value for name, value in measured.metrics.items() if name in names}
        _print_table("published, other images", {"this checkpoint": ours, **measured.published})


def _format_mean(mean: MeanWithInterval) -> str:
    """Return a mean as text, with its interval if it has one."""
    interval = "" if mean.low is None else f" ({mean.low:.3g} to {mean.high:.3g})"
    return f"{mean.mean:.3g}{interval}"


def _print_table(title: str, rows: Mapping[str, Mapping[str, float | str]]) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    listed = [{title: row, **metrics} for row, metrics in rows.items()]
    columns = {name: (lambda row, name=name: row.get(name)) for name in (title, *names)}
    print_rows(listed, columns, as_json=False)
