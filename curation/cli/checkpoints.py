"""Commands of trainers: training runs and checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.comparison import compare
from curation.cli.evaluation import Name, evaluate, in_brief
from curation.cli.memory import print_memory
from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    context,
    print_done,
    print_json,
    print_rows,
    print_text,
    progress,
    resumable,
    short,
    talk,
)
from curation.cli.runs import work_here
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.ports import ImportResult

app = typer.Typer(no_args_is_help=True)
app.command()(evaluate)
app.command()(compare)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another number of the preset, as name=value; may be repeated."),
]


class Form(StrEnum):
    """The programs that files are written for; their table stands in training."""

    released = "released"
    comfyui = "comfyui"
    diffusers = "diffusers"
    peft = "peft"
    kohya = "kohya"
    layerloop = "layerloop"


class Precision(StrEnum):
    """The type of the numbers in exported files."""

    stored = "stored"
    fp16 = "fp16"
    fp32 = "fp32"


def train(
    snapshot: Annotated[
        str, typer.Option(help="A tag, an id, or the first digits of one.")
    ] = "latest",
    preset: Annotated[str, typer.Option(help="A row of numbers: tiny, sd15, sdxl.")] = "tiny",
    recipe: Annotated[
        str,
        typer.Option(
            help="transparency, base, layers, whole (the first two) or pairs (all three)."
        ),
    ] = "whole",
    parent: Annotated[str | None, typer.Option(help="The checkpoint to go on from.")] = None,
    changes: Set = None,
    seed: Annotated[int, typer.Option(help="Seeds weights, noise and order.")] = 0,
    images: Annotated[
        int, typer.Option(help="Train on so many images instead of the preset's.", min=0)
    ] = 0,
    wait: Annotated[
        bool, typer.Option(help="Train here and now; --no-wait leaves it to a worker.")
    ] = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train on a snapshot; the same command again goes on exactly where it stopped."""
    from curation import jobs
    from curation.checkpoints import registry
    from curation.cli.text_warnings import warn_of_snapshot
    from curation.datasets import snapshots
    from curation.domain import TrainingRequest
    from curation.errors import LayerloopError
    from curation.runtime.context import check_order, load

    with context() as ctx:
        with ctx.database.transaction() as tx:
            found = snapshots.find_snapshot(tx, snapshot)
            start = registry.find_checkpoint(tx, parent) if parent else None
            previous = snapshots.known(tx, start.snapshot) if start else None
            changed = (dict(start.changes) if start else {}) | read_changes(changes or [])
            order = TrainingRequest(recipe, preset, found, previous, start, seed, images, changed)
            samples = next(
                row["samples"] for row in snapshots.list_snapshots(tx) if row["id"] == found
            )
            check_order(order, ctx.settings.trainer)
            if not dry_run:
                run = registry.order_training(tx, order, ACTOR)
            if wait:
                tx.jobs.clear()  # this process does it
        warn_of_snapshot(ctx, found, preset, changed)
        if dry_run:
            talk.print(
                f"would train {recipe} with preset {preset} on {short(found)} as run {order.id}"
            )
            print_memory(load(ctx.settings.estimator)(order, samples), str(order.id), as_json)
            return
        if not wait:
            print_json({"run": str(run)}) if as_json else print_text(run)
            return
        talk.print(f"run {run}; its files: {opened.settings.path(f'runs/{run}')}")
        with resumable(), progress() as on_progress:
            row = work_here(ctx, run, jobs.train, registry.find_run, on_progress)
    if row["state"] != "finished":
        message = (
            f"the training was {row['error']}"
            if row["state"] == "cancelled"
            else f"training failed: {row['error']}"
        )
        raise LayerloopError(
            message, "the same command goes on where it stopped, once the cause is mended"
        )
    print_json({"run": str(run), "checkpoint": row["checkpoint_id"]}) if as_json else print_text(
        row["checkpoint_id"]
    )


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every checkpoint with its figures, newest first; the one that draws now is marked."""
    from curation.checkpoints import registry

    with context() as ctx, ctx.database.transaction() as tx:
        rows = registry.list_checkpoints(tx)
        now = registry.promoted(tx)
    columns = {
        "checkpoint": lambda r: short(r["id"]),
        "draws": lambda r: "now" if now and r["id"] == now.id else "",
        "recipe": lambda r: r["recipe"],
        "preset": lambda r: r["preset"],
        "snapshot": lambda r: short(r["snapshot_id"]),
        "parent": lambda r: short(r["parent_id"]),
        "figures": lambda r: in_brief(r["evaluation"]),
        "trained": lambda r: r["at"],
    }
    print_rows(rows, columns, as_json)


@app.command()
def promote(name: Name, as_json: Json = False) -> None:
    """Let a checkpoint draw the rounds to come."""
    from curation.checkpoints import registry

    with context() as ctx, ctx.database.transaction() as tx:
        promoted = registry.promote(tx, name, ACTOR)
    print_done(f"{short(promoted)} draws from now on", as_json, checkpoint=promoted)


@app.command()
def vary(name: Name, changes: Set = None, as_json: Json = False) -> None:
    """Make a checkpoint of the same weights that draws by other numbers, and print its id.

    --set inpainter=FOLDER lets it draw pairs. It is opened once, so that what does not fit is told now.
    """
    from dataclasses import replace

    from curation.checkpoints import registry
    from curation.runtime.context import load

    with context() as ctx:
        with ctx.database.transaction() as tx:
            found = registry.find_checkpoint(tx, name)
        changed = dict(found.changes) | read_changes(changes or [])
        if changed == found.changes:
            raise Refused("nothing is to be changed", "say for example --set draw_steps=40")
        derived = replace(found, changes=changed, parent=found.id, evaluation={})
        load(ctx.settings.generator)(derived, ctx.store)
        with ctx.database.transaction() as tx:
            registry.register_checkpoint(tx, derived, ACTOR)
    print_json({"checkpoint": derived.id}) if as_json else print_text(derived.id)


@app.command("import")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="A decoder, maybe an encoder, maybe bases; safetensors.")
    ],
    preset: Annotated[
        str, typer.Option(help="The row of the model they are for: sd15, sd21, sdxl.")
    ] = "sdxl",
    changes: Set = None,
    offset_scale: Annotated[
        float | None,
        typer.Option(
            help="What the encoder's output is multiplied by; 300 for LayerDiffuse_Diffusers."
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a checkpoint of weights that others released; they are recognised by their content."""
    from curation.checkpoints import registry
    from curation.runtime.context import load

    changed = read_changes(changes or []) | (
        {"offset_scale": repr(offset_scale)} if offset_scale is not None else {}
    )
    with context(create=True) as ctx, progress() as on_progress:
        imported: ImportResult = load(ctx.settings.importer)(
            files, preset, changed, None if dry_run else ctx.store, on_progress
        )
        if imported.checkpoint is not None:
            with ctx.database.transaction() as tx:
                registry.register_checkpoint(tx, imported.checkpoint, ACTOR)
    derived = imported.checkpoint.id if imported.checkpoint else None
    if as_json:
        print_json(
            {
                "checkpoint": derived,
                "files": [asdict(file) for file in imported.files],
                "notes": imported.notes,
            }
        )
        return
    for file in imported.files:
        talk.print(f"{file.path}: {file.what}, {file.tensors:,} tensors, {file.numbers:,} numbers")
    for note in imported.notes:
        talk.print(note)
    print_text(derived) if derived else talk.print("would make one checkpoint of them")


@app.command()
def export(
    name: Name,
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="For which program; Forge reads released, layerloop keeps everything."
        ),
    ] = Form.released,
    out: Annotated[Path, typer.Option(help="The folder to write to; made if need be.")] = Path(
        "exported"
    ),
    precision: Annotated[
        Precision,
        typer.Option(help="Of the numbers in the files; stored is as the checkpoint has them."),
    ] = Precision.stored,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as files that other programs read."""
    from curation.checkpoints import registry
    from curation.runtime.context import load

    with context() as ctx:
        with ctx.database.transaction() as tx:
            checkpoint = registry.find_checkpoint(tx, name)
        written = load(ctx.settings.exporter)(
            checkpoint, ctx.store, form.value, precision.value, out
        )
    if as_json:
        print_json({"checkpoint": checkpoint.id, "files": [asdict(file) for file in written]})
        return
    for file in written:
        if not file.path:
            talk.print(f"part {file.part} is {file.what}")
            continue
        talk.print(f"{file.what}, {file.tensors:,} tensors, {file.numbers:,} numbers")
        print_text(file.path)


def read_changes(given: list[str]) -> dict[str, str]:
    """Words like name=value as a mapping. Raises Refused."""
    pairs = [word.partition("=") for word in given]
    for name, equals, _ in pairs:
        if not equals:
            raise Refused(
                f"--set {name!r} is no name=value", "say for example --set transparency_batch=4"
            )
    return {name.strip(): _whole(value.strip()) for name, _, value in pairs}


def _whole(value: str) -> str:
    """A path that is there in full, since a worker may stand elsewhere; anything else as it is."""
    path = Path(value).expanduser()
    return str(path.resolve()) if {"/", "~"} & set(value) and path.exists() else value
