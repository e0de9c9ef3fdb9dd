"""Commands of trainers: training runs and checkpoints."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.show import ACTOR, DryRun, Json, house, print_json, print_rows, progress, short, talk
from curation.domain import Progress

if TYPE_CHECKING:
    from curation.house import House

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The checkpoint's id, or the first eight or more digits of it.")]


def train(
    snapshot: Annotated[str, typer.Option(help="A tag, an id, or the first digits of one.")] = "latest",
    preset: Annotated[str, typer.Option(help="A row of numbers: tiny, sd15, sdxl.")] = "tiny",
    recipe: Annotated[str, typer.Option(help="transparency, base, or whole for both.")] = "whole",
    parent: Annotated[str | None, typer.Option(help="The checkpoint to go on from.")] = None,
    seed: Annotated[int, typer.Option(help="Seeds weights, noise and order.")] = 0,
    images: Annotated[int, typer.Option(help="Train on so many images instead of the preset's.", min=0)] = 0,
    wait: Annotated[bool, typer.Option(help="Train here and now; --no-wait leaves it to a worker.")] = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train on a snapshot; the same command again goes on exactly where it stopped."""
    from curation import checkpoints, jobs, snapshots
    from curation.domain import TrainingOrder
    from curation.errors import LayerloopError

    with house() as opened:
        with opened.database.transaction() as tx:
            found = snapshots.find_snapshot(tx, snapshot)
            start = checkpoints.find_checkpoint(tx, parent) if parent else None
            previous = start.snapshot if start else None
            order = TrainingOrder(recipe, preset, found, previous, start, seed, images)
            if dry_run:
                talk.print(f"would train {recipe} with preset {preset} on {short(found)} as run {order.id}")
                return
            run = checkpoints.order_training(tx, order, ACTOR)
            if wait:
                tx.jobs.clear()  # this process does it
        if not wait:
            print_json({"run": str(run)}) if as_json else print(run)
            return
        with progress() as tell:
            jobs.train(opened, str(run), tell)
            row = _wait(opened, run, tell)
    if row["state"] == "failed":
        raise LayerloopError(f"training failed: {row['error']}", "mend that, then run the same command again")
    print_json({"checkpoint": row["checkpoint_id"]}) if as_json else print(row["checkpoint_id"])


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every checkpoint with its figures, newest first; the one that draws now is marked."""
    from curation import checkpoints

    with house() as opened, opened.database.transaction() as tx:
        rows = checkpoints.list_checkpoints(tx)
        now = checkpoints.promoted(tx)
    columns = {
        "checkpoint": lambda r: short(r["id"]),
        "draws": lambda r: "now" if now and r["id"] == now.id else "",
        "recipe": lambda r: r["recipe"],
        "preset": lambda r: r["preset"],
        "snapshot": lambda r: short(r["snapshot_id"]),
        "parent": lambda r: short(r["parent_id"]),
        "figures": lambda r: "  ".join(f"{k} {v:.4g}" for k, v in r["evaluation"].items()),
        "trained": lambda r: r["at"],
    }
    print_rows(rows, columns, as_json)


@app.command()
def promote(name: Name) -> None:
    """Let a checkpoint draw the rounds to come."""
    from curation import checkpoints

    with house() as opened, opened.database.transaction() as tx:
        promoted = checkpoints.promote(tx, name, ACTOR)
    talk.print(f"{short(promoted)} draws from now on")


@app.command()
def evaluate(
    name: Name,
    snapshot: Annotated[str | None, typer.Option(help="Whose held-out split; its own when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a checkpoint on the held-out split of a snapshot, and keep the figures."""
    from curation import checkpoints, snapshots
    from curation.house import load

    with house() as opened:
        with opened.database.transaction() as tx:
            checkpoint = checkpoints.find_checkpoint(tx, name)
            on = snapshots.find_snapshot(tx, snapshot) if snapshot else checkpoint.snapshot
        with progress() as tell:
            figures = dict(load(opened.settings.evaluator)(checkpoint, on, opened.store, tell))
        if on == checkpoint.snapshot:
            with opened.database.transaction() as tx:
                checkpoints.keep_evaluation(tx, checkpoint.id, figures, ACTOR)
    if as_json:
        print_json({"checkpoint": checkpoint.id, "snapshot": on, "evaluation": figures})
        return
    for figure, value in figures.items():
        print(f"{figure:<20} {value:.5g}")


def _wait(opened: House, run: uuid.UUID, tell: Callable[[Progress], None]) -> dict[str, Any]:
    """The run's row once it is over, wherever it runs."""
    from curation import checkpoints

    while True:
        with opened.database.transaction() as tx:
            row = checkpoints.find_run(tx, run)
        if row["state"] in {"finished", "failed"}:
            return row
        if row["progress"]:
            seen = row["progress"]
            tell(Progress(seen["stage"], seen["done"], seen["total"], seen["figures"]))
        time.sleep(0.5)
