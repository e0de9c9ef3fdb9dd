"""Commands for training and caption runs, in this process or in workers (model trainers)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    ACTOR,
    Json,
    console,
    context,
    print_json,
    print_result,
    print_text,
    settings,
)
from curation.errors import Conflict, NotFound

if TYPE_CHECKING:
    from curation.db.engine import Transaction
    from curation.domain import Progress
    from curation.runtime.context import AppContext

app = typer.Typer(no_args_is_help=True)

Run = Annotated[str, typer.Argument(help="The run's id, or its first eight or more digits.")]


@app.command("list")
def list_(
    limit: Limit = 50,
    after: Annotated[
        str | None, typer.Option("--after", help="List runs older than this one, by its id.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List training and caption runs with state and progress, newest first."""
    with context() as ctx, ctx.database.transaction() as tx:
        before = find_row(tx, after) if after else None
        rows = _runs(tx, query_limit(limit), before)
    columns = {
        "run": lambda r: str(r["id"])[:13],
        "kind": lambda r: r["kind"],
        "what": lambda r: f"{r['recipe']} {r['preset']}" if r["kind"] == "training" else r["model"],
        "state": lambda r: r["state"],
        "priority": lambda r: r.get("priority", "–"),
        "progress": _progress,
        "requested": lambda r: r["created_at"],
        "ended": lambda r: r["finished_at"],
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def show(run: Run, as_json: Json = False) -> None:
    """Show a run: its request, progress, lease holder, saved states and folder."""
    from curation.checkpoints import run_states
    from curation.db import leases

    with context() as ctx, ctx.database.transaction() as tx:
        row = find_row(tx, run)
        held = leases.find_lease(tx, row["id"])
        states = run_states.list_states(tx, row["id"])
    details = row | {"holder": held[0] if held else None, "held_until": held[1] if held else None}
    # The folder is missing if the run was trained on another machine.
    if row["kind"] == "training":
        folder = settings().home.resolve() / "runs" / str(row["id"])
        details["folder"] = str(folder) if folder.is_dir() else None
        details["states"] = [
            {"stage": state.stage, "images": state.images, "bytes": state.size} for state in states
        ]
    if as_json:
        print_json(details)
        return
    print_text(f"run {row['id']}  {row['kind']}, {row['state']}")
    if row["progress"]:
        print_text(f"  {'progress':<13} {_progress(row)}")
    for name, value in details.items():
        shown = name not in {"id", "kind", "state", "progress", "states"}
        if shown and value not in (None, {}, ""):
            print_text(f"  {name:<13} {value}")
    for state in states:
        print_text(
            f"  {'saved state':<13} {state.stage} after {state.images:,} images, "
            f"{state.size / 1e6:,.1f} MB"
        )


@app.command()
def cancel(run: Run, as_json: Json = False) -> None:
    """Cancel a run: a requested run at once, a running run within a batch.

    Requesting the same run again resumes it.
    """
    from curation.checkpoints import registry
    from curation.datasets import captions

    with context() as ctx, ctx.database.transaction() as tx:
        row = find_row(tx, run)
        # Training and captions have tables of their own.
        of_kind = registry.cancel_run if row["kind"] == "training" else captions.cancel_run
        if not of_kind(tx, row["id"], ACTOR):
            raise Conflict(
                f"run {row['id']} is {row['state']} already",
                "'layerloop run list' shows the active runs",
            )
    running = row["state"] == "running"
    message = f"run {row['id']} is cancelled" + (
        "; its worker stops within a batch" if running else ""
    )
    print_result(message, as_json, run=row["id"], state="cancelled", was=row["state"])


def run_or_follow(
    ctx: AppContext,
    run: uuid.UUID,
    work: Callable[[AppContext, str, Callable[[Progress], None]], None],
    find_run: Callable[[Transaction, uuid.UUID], dict[str, Any]],
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    """Work on a run in this process and return its row once it has ended.

    If another process holds the run's lease, print the holder, follow the progress, and take the
    run over as soon as the lease is released. Leases that expired or whose holder was killed are
    released here, since no worker may be running.

    Args:
        ctx: The app context.
        run: The run's id.
        work: Does the work of the run, or returns at once if its lease is held.
        find_run: Returns the row of the run.
        on_progress: Receives the progress.

    Returns:
        The row of the run in its final state.
    """
    from curation import jobs
    from curation.db import leases
    from curation.domain import Progress

    printed_holder = printed_reason = None
    while True:
        jobs.release_lost_leases(ctx)
        # Returns when the run has ended, or at once where another process holds its lease.
        work(ctx, str(run), on_progress)
        with ctx.database.transaction() as tx:
            row, held = find_run(tx, run), leases.find_lease(tx, run)
        if row["state"] in {"finished", "failed", "cancelled", "paused"}:
            return row
        # Waiting after an outage: print each reason once.
        if row["state"] == "requested" and row["error"] and row["error"] != printed_reason:
            printed_reason = row["error"]
            console.print(printed_reason)

        # Another process works on it: print the holder once and follow its progress.
        if held and held[0] != printed_holder:
            printed_holder = held[0]
            until = held[1].astimezone()
            console.print(
                f"waiting for {held[0]}, which works on run {run} (its lease lasts until "
                f"{until:%H:%M:%S} or longer)"
            )
        if held and row["progress"]:
            on_progress(Progress(**row["progress"]))
        time.sleep(0.5)


def _runs(
    tx: Transaction, limit: int = 0, before: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of runs of both kinds, newest first; 0 is no limit."""
    from curation.checkpoints import registry
    from curation.datasets import captions

    rows = [{"kind": "training"} | row for row in registry.list_runs(tx, limit, before)]
    rows += [{"kind": "captions"} | row for row in captions.list_runs(tx, limit, before)]
    rows.sort(key=lambda row: (row["created_at"], row["id"]), reverse=True)
    return rows[:limit] if limit else rows


def find_row(tx: Transaction, name: str) -> dict[str, Any]:
    """Return the run with this id or id prefix, with its kind. Raises NotFound."""
    from curation.checkpoints import registry
    from curation.datasets import captions

    found = [{"kind": "training"} | row for row in registry.find_runs(tx, name, 2)]
    found += [{"kind": "captions"} | row for row in captions.find_runs(tx, name, 2)]
    if len(found) != 1:
        raise NotFound(
            f"there is no run {name!r}", "'layerloop run list' shows the ids; eight digits suffice"
        )
    return found[0]


def _progress(row: dict[str, Any]) -> str:
    from curation.domain import Progress
    from curation.progress import describe_progress

    progress = row["progress"]
    if not progress:
        return "–"
    return describe_progress(Progress(**({"stage": row["kind"]} | progress)))
