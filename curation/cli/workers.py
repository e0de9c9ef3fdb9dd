"""Commands for worker processes: run one, and list those that are alive."""

from __future__ import annotations

from typing import Annotated

import typer

from curation.cli.output import Json, context, print_rows, settings
from curation.cli.serve import WorkerQueue
from curation.cli.status import WORKER_COLUMNS

app = typer.Typer()


@app.callback(invoke_without_command=True)
def worker(
    ctx: typer.Context,
    queue: Annotated[
        list[WorkerQueue] | None,
        typer.Option(
            help="Kind of work, repeatable; cpu: screen and review (the default); gpu: generate "
            "and train."
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Port of /metrics, /live and /ready; default: LAYERLOOP_METRICS_PORT, 0: any free "
            "port.",
            min=0,
            max=65_535,
        ),
    ] = None,
) -> None:
    """Process jobs of one or more queues until stopped; SIGTERM ends it within 30 seconds.

    'worker list' shows all workers.
    """
    if ctx.invoked_subcommand is not None:
        return
    from curation.jobs.worker import run_worker
    from curation.runtime.context import database_address, open_context
    from curation.runtime.moved import check_not_moved

    config = settings(**({} if metrics_port is None else {"metrics_port": metrics_port}))
    with open_context(config) as context_:
        check_not_moved(context_.database)
        run_worker(context_, database_address(config), queue or [WorkerQueue.cpu])


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the live workers: their queues, what they do, and why one is paused."""
    from curation.db import workers

    with context() as ctx, ctx.database.transaction() as tx:
        rows = [worker.__dict__ for worker in workers.list_live_workers(tx)]
    print_rows(rows, WORKER_COLUMNS, as_json)
