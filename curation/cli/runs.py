"""Commands of trainers: runs of training and captions, wherever they run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.output import (
    ACTOR,
    Json,
    context,
    print_done,
    print_json,
    print_rows,
    print_text,
    settings,
    talk,
)
from curation.errors import Conflict, NotFound

if TYPE_CHECKING:
    from curation.db.engine import Transaction
    from curation.domain import Progress
    from curation.runtime.context import AppContext

app = typer.Typer(no_args_is_help=True)

Run = Annotated[str, typer.Argument(help="The run's id, or the first eight or more digits of it.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every run of training and captions with its state and progress, newest first."""
    with context() as ctx, ctx.database.transaction() as tx:
        rows = _runs(tx)
    columns = {
        "run": lambda r: str(r["id"])[:13],
        "kind": lambda r: r["kind"],
        "what": lambda r: f"{r['recipe']} {r['preset']}" if r["kind"] == "training" else r["model"],
        "state": lambda r: r["state"],
        "progress": _progress,
        "ordered": lambda r: r["at"],
        "ended": lambda r: r["finished_at"],
    }
    print_rows(rows, columns, as_json)


@app.command()
def show(run: Run, as_json: Json = False) -> None:
    """One run: what was ordered, how far it is, who holds it until when, and where its files and logs are."""
    from curation.db import leases

    with context() as ctx, ctx.database.transaction() as tx:
        row = _find(tx, run)
        held = leases.find_lease(tx, row["id"])
    told = row | {"holder": held[0] if held else None, "held_until": held[1] if held else None}
    if row["kind"] == "training":
        folder = settings().home.resolve() / "runs" / str(row["id"])
        told["folder"] = str(folder) if folder.is_dir() else None
    if as_json:
        print_json(told)
        return
    print_text(f"run {row['id']}  {row['kind']}, {row['state']}")
    if row["progress"]:
        print_text(f"  {'progress':<13} {_progress(row)}")
    for name, value in told.items():
        if name not in {"id", "kind", "state", "progress"} and value not in (None, {}, ""):
            print_text(f"  {name:<13} {value}")


@app.command()
def cancel(run: Run, as_json: Json = False) -> None:
    """Cancel a run: a requested one at once, a running one within a batch. The same order goes on where it stopped."""
    from curation.checkpoints import registry
    from curation.datasets import captions

    with context() as ctx, ctx.database.transaction() as tx:
        row = _find(tx, run)
        of_kind = registry.cancel_run if row["kind"] == "training" else captions.cancel_run
        if not of_kind(tx, row["id"], ACTOR):
            raise Conflict(
                f"run {row['id']} is {row['state']} already",
                "'layerloop run list' shows which are under way",
            )
    running = row["state"] == "running"
    told = f"run {row['id']} is cancelled" + (
        "; whoever works on it stops within a batch" if running else ""
    )
    print_done(told, as_json, run=row["id"], state="cancelled", was=row["state"])


def work_here(
    ctx: AppContext,
    run: uuid.UUID,
    work: Callable[[AppContext, str, Callable[[Progress], None]], None],
    find_run: Callable[[Transaction, uuid.UUID], dict[str, Any]],
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    """Work on a run in this process and return its row once it is over.

    Where somebody else holds the run, say who and until when, follow its progress, and take it over as soon as it is
    free: leases that ran out or whose holder was killed are handed back here, since no worker may be there to do so.
    """
    from curation import jobs
    from curation.db import leases
    from curation.domain import Progress

    told = None
    while True:
        jobs.release_lost(ctx)
        work(ctx, str(run), on_progress)
        with ctx.database.transaction() as tx:
            row, held = find_run(tx, run), leases.find_lease(tx, run)
        if row["state"] in {"finished", "failed", "cancelled"}:
            return row
        if held and held[0] != told:
            told, until = held[0], held[1].astimezone()
            talk.print(
                f"{held[0]} works on run {run}, and holds it until {until:%H:%M:%S} or longer; waiting for it"
            )
        if held and row["progress"]:
            on_progress(Progress(**row["progress"]))
        time.sleep(0.5)


def _runs(tx: Transaction) -> list[dict[str, Any]]:
    from curation.checkpoints import registry
    from curation.datasets import captions

    rows = [{"kind": "training"} | row for row in registry.list_runs(tx)]
    rows += [{"kind": "captions"} | row for row in captions.list_runs(tx)]
    return sorted(rows, key=lambda row: row["at"], reverse=True)


def _find(tx: Transaction, name: str) -> dict[str, Any]:
    """Return the run with that id or that beginning of one. Raises NotFound."""
    digits = name.replace("-", "").lower()
    found = [row for row in _runs(tx) if uuid.UUID(str(row["id"])).hex.startswith(digits)]
    if len(digits) < 8 or len(found) != 1:
        raise NotFound(
            f"there is no run {name!r}", "'layerloop run list' shows them; eight digits are enough"
        )
    return found[0]


def _progress(row: dict[str, Any]) -> str:
    from curation.domain import Progress
    from curation.progress import describe_progress

    seen = row["progress"]
    if not seen:
        return "–"
    return describe_progress(Progress(**({"stage": row["kind"]} | seen)))
