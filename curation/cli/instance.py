"""Commands for an instance as a whole: garbage collection, backup, restore and moving."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from curation.cli.output import DryRun, Json, console, context, print_json, progress

app = typer.Typer(no_args_is_help=True)


@app.command()
def gc(
    grace: Annotated[
        float,
        typer.Option(
            help="Hours; objects that were put more recently are kept. At least 1.", min=1.0
        ),
    ] = 24.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove objects from the store that neither a row nor a snapshot names.

    Workers may run meanwhile. Objects put since the start of an unfinished training are kept.
    """
    from curation.instance.garbage import collect_garbage

    with context() as ctx, progress() as on_progress:
        report = collect_garbage(
            ctx.database, ctx.store, timedelta(hours=grace), on_progress, dry_run=dry_run
        )
    if as_json:
        print_json(asdict(report) | {"dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    console.print(
        f"{verb} {report.removed:,} objects ({report.removed_bytes / 2**20:,.1f} MiB); "
        f"kept {report.named:,} named and {report.young:,} recent objects"
    )
