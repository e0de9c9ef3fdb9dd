"""Commands that steer training runs: pause, resume, retry, priority, log and other machines."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.output import (
    ACTOR,
    Json,
    console,
    context,
    print_json_line,
    print_result,
    print_text,
)
from curation.cli.runs import Run, app, find_row
from curation.domain import canonical_json
from curation.errors import Refused

if TYPE_CHECKING:
    from curation.db.engine import Transaction
    from curation.runtime.context import AppContext

__all__ = ["app"]

FOLLOW_SECONDS = 1.0
JOIN_SECONDS = 2.0
ENDED = {"finished", "failed", "cancelled"}


@app.command()
def pause(run: Run, as_json: Json = False) -> None:
    """Pause a training run; its worker stops within a batch and takes other work."""
    from curation.checkpoints import run_queue

    _change(run, run_queue.pause_run, "paused; 'layerloop run resume' continues it", as_json)


@app.command()
def resume(run: Run, as_json: Json = False) -> None:
    """Resume a paused training run from its last saved state, on any worker."""
    from curation.checkpoints import run_queue

    _change(run, run_queue.resume_run, "requested again", as_json)


@app.command()
def retry(run: Run, as_json: Json = False) -> None:
    """Retry a failed or cancelled training run from its last saved state.

    A run that waits after an outage is tried at once.
    """
    from curation.checkpoints import run_queue

    _change(run, run_queue.retry_run, "requested again", as_json)


@app.command("set-priority")
def set_priority(
    run: Run,
    priority: Annotated[
        int,
        typer.Argument(min=-1_000, max=1_000, help="The larger it is, the sooner the run starts."),
    ],
    as_json: Json = False,
) -> None:
    """Set the priority of a training run; new runs have 0, and a running run is not interrupted."""
    from curation.checkpoints import run_queue

    def change(tx: Transaction, run: uuid.UUID, actor: str) -> None:
        run_queue.set_priority(tx, run, priority, actor)

    _change(run, change, f"given priority {priority}", as_json)


@app.command()
def logs(
    run: Run,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run has ended, or Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the log of a training run, of all workers that trained it."""
    with context() as ctx:
        with ctx.database.transaction() as tx:
            row = find_row(tx, run)
        after = 0
        while True:
            # The state is read first: what is logged before the end is read after it.
            with ctx.database.transaction() as tx:
                ended = find_row(tx, str(row["id"]))["state"] in ENDED
            after = _print_log(ctx, row["id"], after, as_json)
            if not follow or ended:
                return
            time.sleep(FOLLOW_SECONDS)


@app.command()
def join(
    machine: Annotated[
        int, typer.Option("--machine", min=1, help="The number of this machine; the worker is 0.")
    ],
    once: Annotated[bool, typer.Option("--once", help="Join one run, and end with it.")] = False,
) -> None:
    """Train together with the worker on another machine, run after run.

    All machines have the same LAYERLOOP_TRAIN_MACHINES and LAYERLOOP_TRAIN_ENDPOINT.
    """
    from curation.checkpoints import run_queue
    from curation.runtime.context import load_trainer_join

    with context() as ctx:
        if ctx.settings.train_machines <= machine:
            raise Refused(
                f"there is no machine {machine} of {ctx.settings.train_machines}",
                "set LAYERLOOP_TRAIN_MACHINES alike on all machines; the worker is machine 0",
            )
        train_with = load_trainer_join(ctx.settings.trainer)
        joined: set[tuple[uuid.UUID, int]] = set()
        console.print(
            f"machine {machine} waits for a run of {ctx.settings.train_machines} machines"
        )
        while True:
            with ctx.database.transaction() as tx:
                found = run_queue.find_shared_run(tx, ctx.settings.train_machines)
            # Each attempt is joined once: after its end the worker may still evaluate.
            if found is None or (found[0].id, found[1]) in joined:
                time.sleep(JOIN_SECONDS)
                continue
            request, attempt = found
            joined.add((request.id, attempt))
            console.print(f"joining run {request.id}, attempt {attempt}")
            folder = ctx.settings.path(f"runs/{request.id}")
            in_order = train_with(request, ctx.store, folder, machine)
            console.print(f"run {request.id}: {'done' if in_order else 'ended early'} here")
            if once and in_order:
                return


def _change(
    name: str, change: Callable[[Transaction, uuid.UUID, str], Any], done: str, as_json: bool
) -> None:
    """Change a training run by a function of the run queue, and report it."""
    from curation.checkpoints import registry

    with context() as ctx, ctx.database.transaction() as tx:
        row = find_row(tx, name)
        if row["kind"] != "training":
            raise Refused(
                f"run {row['id']} is of the kind {row['kind']}",
                "only training runs can be paused, retried and given a priority",
            )
        change(tx, row["id"], ACTOR)
        state, priority = (registry.find_run(tx, row["id"])[key] for key in ("state", "priority"))
    print_result(
        f"run {row['id']} is {done}",
        as_json,
        run=row["id"],
        state=state,
        was=row["state"],
        priority=priority,
    )


def _print_log(ctx: AppContext, run: uuid.UUID, after: int, as_json: bool) -> int:
    """Print all log lines after a position, and return the new position."""
    from curation.checkpoints import run_history

    while True:
        with ctx.database.transaction() as tx:
            batches = run_history.read_log(tx, run, after)
        for batch in batches:
            for line in batch.text.splitlines():
                if as_json:
                    time_, level, text = line.split(" ", 2)
                    row = {"time": time_, "level": level, "worker": batch.worker, "text": text}
                    print_json_line(canonical_json(row))
                else:
                    print_text(line)
        if not batches:
            return after
        after = batches[-1].id
