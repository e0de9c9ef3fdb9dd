"""Commands for training runs and checkpoints (model trainers)."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.checkpoint_push import push
from curation.cli.comparison import compare
from curation.cli.evaluation import CheckpointArgument, evaluate, format_metrics
from curation.cli.hub_download import fetch_weights
from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.memory import print_memory
from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_text,
    progress,
    resume_hint,
    short_hash,
)
from curation.cli.promotion import promote
from curation.cli.runs import run_or_follow
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.ports import ImportResult

app = typer.Typer(no_args_is_help=True)
app.command()(evaluate)
app.command()(compare)
app.command()(push)
app.command()(promote)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a preset value by name=value; repeatable."),
]


class ExportFormat(StrEnum):
    """The export formats; the training package has their definitions."""

    released = "released"
    comfyui = "comfyui"
    diffusers = "diffusers"
    peft = "peft"
    kohya = "kohya"
    layerloop = "layerloop"


class Precision(StrEnum):
    """The data type of exported tensors."""

    stored = "stored"
    fp16 = "fp16"
    fp32 = "fp32"


def train(
    snapshot: Annotated[
        str, typer.Option(help="The snapshot: a tag, an id, or a prefix of an id.")
    ] = "latest",
    preset: Annotated[str, typer.Option(help="The preset: tiny, sd15, sdxl.")] = "tiny",
    recipe: Annotated[
        str,
        typer.Option(
            help=(
                "Stages to train: transparency, base, layers, whole (the first two) or pairs (all "
                "three); from decisions: kto, dpo, layers-kto, layers-dpo, whole-kto, pairs-kto."
            )
        ),
    ] = "whole",
    parent: Annotated[str | None, typer.Option(help="The checkpoint to start from.")] = None,
    changes: Overrides = None,
    seed: Annotated[int, typer.Option(help="Random seed of weights, noise and order.")] = 0,
    images: Annotated[
        int, typer.Option(help="Number of images to train on; 0 is the preset's.", min=0)
    ] = 0,
    wait: Annotated[
        bool, typer.Option(help="Train in this process; --no-wait queues it for a worker.")
    ] = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train on a snapshot; running the same command again resumes exactly where it stopped."""
    from curation import jobs
    from curation.checkpoints import registry
    from curation.cli.text_warnings import warn_of_snapshot
    from curation.datasets import snapshot_history, snapshots
    from curation.domain import TrainingRequest
    from curation.errors import LayerloopError
    from curation.runtime.context import check_training_request, load_object

    with context() as ctx:
        with ctx.database.transaction() as tx:
            # Resolve names first, so that the request holds ids and equal requests are one run.
            found = snapshots.find_snapshot(tx, snapshot)
            start = registry.find_checkpoint(tx, parent) if parent else None
            previous = snapshots.find_local_snapshot(tx, start.snapshot) if start else None
            previous = snapshot_history.find_previous(tx, previous)
            changed = (dict(start.changes) if start else {}) | parse_overrides(changes or [])
            order = TrainingRequest(recipe, preset, found, previous, start, seed, images, changed)
            samples = snapshots.read_snapshots(tx, [found])[found]["samples"]
            check_training_request(order, ctx.settings.trainer)
            if not dry_run:
                run = registry.request_training(tx, order, ACTOR)
            if wait:
                tx.jobs.clear()  # no worker may start the run that this process works on
        warn_of_snapshot(ctx, found, preset, changed)

        # A dry run estimates the memory of each stage instead of training.
        if dry_run:
            console.print(
                f"would train {recipe} with preset {preset} on {short_hash(found)} as run "
                f"{order.id}"
            )
            print_memory(
                load_object(ctx.settings.estimator)(order, samples), str(order.id), as_json
            )
            return
        if not wait:
            print_json({"run": str(run)}) if as_json else print_text(run)
            return

        # Train here, or follow the run where a worker holds its lease already.
        console.print(f"run {run}, files in {ctx.settings.path(f'runs/{run}')}")
        with resume_hint(), progress() as on_progress:
            row = run_or_follow(ctx, run, jobs.train_run, registry.find_run, on_progress)
    if row["state"] != "finished":
        message = (
            f"training was {row['error']}"
            if row["state"] in {"cancelled", "paused"}
            else f"training failed: {row['error']}"
        )
        raise LayerloopError(message, "fix the cause and run the same command again to resume")
    print_json({"run": str(run), "checkpoint": row["checkpoint_id"]}) if as_json else print_text(
        row["checkpoint_id"]
    )


@app.command("list")
def list_(
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option(help="List checkpoints older than this one, by its id.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List checkpoints with their metrics, newest first; the promoted one is marked."""
    from curation.checkpoints import registry

    with context() as ctx, ctx.database.transaction() as tx:
        last = registry.find_checkpoint(tx, after).id if after else None
        rows = registry.list_checkpoints(tx, query_limit(limit), last)
        promoted = registry.find_promoted_checkpoint(tx)
    columns = {
        "checkpoint": lambda r: short_hash(r["id"]),
        "promoted": lambda r: "yes" if promoted and r["id"] == promoted.id else "",
        "tainted": lambda r: "yes" if r["tainted_by"] else "",
        "recipe": lambda r: r["recipe"],
        "preset": lambda r: r["preset"],
        "snapshot": lambda r: short_hash(r["snapshot_id"]),
        "parent": lambda r: short_hash(r["parent_id"]),
        "metrics": lambda r: format_metrics(r["evaluation"]),
        "trained": lambda r: r["created_at"],
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def derive(name: CheckpointArgument, changes: Overrides = None, as_json: Json = False) -> None:
    """Derive a checkpoint with the same weights and other preset values, and print its id.

    --set inpainter=FOLDER lets it generate pairs. The new checkpoint is loaded once, so that values
    that do not fit fail here and not in a worker.
    """
    from dataclasses import replace

    from curation.checkpoints import registry
    from curation.checkpoints.former_columns import check_column_names
    from curation.runtime.context import load_object

    overrides = parse_overrides(changes or [])
    check_column_names(overrides)
    with context() as ctx:
        with ctx.database.transaction() as tx:
            found = registry.find_checkpoint(tx, name)
        changed = dict(found.changes) | overrides
        if changed == found.changes:
            raise Refused("no preset value would change", "for example --set draw_steps=40")
        derived = replace(found, changes=changed, parent=found.id, evaluation={})
        # Load the weights once: an override that does not fit them must fail before it is kept.
        load_object(ctx.settings.generator)(derived, ctx.store)
        with ctx.database.transaction() as tx:
            registry.register_checkpoint(tx, derived, ACTOR)
    print_json({"checkpoint": derived.id}) if as_json else print_text(derived.id)


@app.command("import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|hf://OWNER/NAME[/FILE][@REVISION]...",
            help="Safetensors: a decoder, optionally an encoder and base weights.",
        ),
    ],
    preset: Annotated[
        str, typer.Option(help="The preset of their base model: sd15, sd21, sdxl.")
    ] = "sdxl",
    changes: Overrides = None,
    offset_scale: Annotated[
        float | None,
        typer.Option(help="Factor of the encoder's output; 300 for LayerDiffuse_Diffusers."),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Import released weights as a checkpoint; their format is detected from their content.

    Files on the Hugging Face Hub are downloaded into the home first, safetensors only; a repository
    that `checkpoint push` wrote is named without a file.
    """
    from curation.checkpoints import registry
    from curation.runtime.context import load_object

    changed = parse_overrides(changes or []) | (
        {"offset_scale": repr(offset_scale)} if offset_scale is not None else {}
    )
    # Without a store the importer only examines the files.
    with context(create=True) as ctx, resume_hint(), progress() as on_progress:
        paths = fetch_weights(files, on_progress, dry_run=dry_run, as_json=as_json)
        if paths is None:
            return
        imported: ImportResult = load_object(ctx.settings.importer)(
            paths, preset, changed, None if dry_run else ctx.store, on_progress
        )
        if imported.checkpoint is not None:
            with ctx.database.transaction() as tx:
                registry.register_checkpoint(tx, imported.checkpoint, ACTOR)
    checkpoint_id = imported.checkpoint.id if imported.checkpoint else None
    if as_json:
        print_json(
            {
                "checkpoint": checkpoint_id,
                "files": [asdict(file) for file in imported.files],
                "notes": imported.notes,
            }
        )
        return
    for file in imported.files:
        size = f"{file.tensors:,} tensors, {file.numbers:,} parameters"
        console.print(f"{file.path}: {file.what}, {size}")
    for note in imported.notes:
        console.print(note)
    print_text(checkpoint_id) if checkpoint_id else console.print(
        "would import them as one checkpoint"
    )


@app.command()
def export(
    name: CheckpointArgument,
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format", help="Target program; Forge reads 'released', 'layerloop' is lossless."
        ),
    ] = ExportFormat.released,
    out: Annotated[Path, typer.Option(help="Output folder; created if missing.")] = Path(
        "exported"
    ),
    precision: Annotated[
        Precision,
        typer.Option(help="Data type of the tensors; 'stored' keeps the checkpoint's."),
    ] = Precision.stored,
    as_json: Json = False,
) -> None:
    """Export a checkpoint as files that other programs read."""
    from curation.checkpoints import registry
    from curation.runtime.context import load_object

    with context() as ctx:
        with ctx.database.transaction() as tx:
            checkpoint = registry.find_checkpoint(tx, name)
        written = load_object(ctx.settings.exporter)(
            checkpoint, ctx.store, form.value, precision.value, out
        )
        with ctx.database.transaction() as tx:
            tx.log(ACTOR, "checkpoint exported", checkpoint.id, format=form.value)
    if as_json:
        print_json({"checkpoint": checkpoint.id, "files": [asdict(file) for file in written]})
        return
    for file in written:
        # Parts without a path were not written; `what` has the reason.
        if not file.path:
            console.print(f"part {file.part} is {file.what}")
            continue
        console.print(f"{file.what}, {file.tensors:,} tensors, {file.numbers:,} parameters")
        print_text(file.path)


def parse_overrides(given: list[str]) -> dict[str, str]:
    """Parse name=value words into a mapping; existing paths become absolute.

    Raises:
        Refused: A word has no "=".
    """
    pairs = [word.partition("=") for word in given]
    for name, equals, _ in pairs:
        if not equals:
            raise Refused(
                f"--set {name!r} is not name=value", "for example --set transparency_batch=4"
            )
    return {name.strip(): _whole(value.strip()) for name, _, value in pairs}


def _whole(value: str) -> str:
    """Return an existing path as absolute, any other value unchanged."""
    # A worker's working directory may differ from this command's.
    path = Path(value).expanduser()
    return str(path.resolve()) if {"/", "~"} & set(value) and path.exists() else value
