"""Commands for the audit log: list, export and verify events (administrators)."""

from __future__ import annotations

from operator import itemgetter
from typing import Annotated

import typer

from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    Json,
    console,
    context,
    print_json,
    print_json_line,
    print_text,
)

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Option(help="Only events of this kind, such as 'signed in'.")] = "",
    actor: Annotated[str, typer.Option(help="Only events of this person or program.")] = "",
    subject: Annotated[str, typer.Option(help="Only events about this, such as 'round 7'.")] = "",
    limit: Limit = 50,
    after: Annotated[
        int | None, typer.Option(help="List events older than this one, by its id.", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """List events, newest first: who did what, and when."""
    from curation.events.listing import list_events

    with context() as ctx, ctx.database.transaction() as tx:
        rows = list_events(
            tx, kind=kind, actor=actor, subject=subject, limit=query_limit(limit), after=after
        )
    columns = {
        "id": itemgetter("id"),
        "time": itemgetter("created_at"),
        "actor": itemgetter("actor"),
        "event": itemgetter("kind"),
        "subject": itemgetter("subject"),
        "data": itemgetter("data"),
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def export(
    after: Annotated[int, typer.Option(help="Begin after this position of the chain.", min=0)] = 0,
) -> None:
    """Print all sealed events as JSON lines, each with its position and hash in the chain."""
    from curation.domain import canonical_json
    from curation.events import chain
    from curation.events.listing import export_events

    with context() as ctx:
        chain.seal_events(ctx.database, wait=True)
        with ctx.database.transaction(repeatable_read=True) as tx:
            for event in export_events(tx, after):
                print_json_line(canonical_json(event))


@app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(help="A head printed before, as POSITION:HASH, which the log must contain."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no event was changed, removed, inserted or reordered, and print the head.

    Keep the head in another place: the chain alone does not show that its end was cut off, or that
    all of it was computed anew.
    """
    from curation.errors import Corrupt
    from curation.events import chain

    kept = None if head is None else chain.Head.parse(head)
    with context() as ctx:
        chain.seal_events(ctx.database, wait=True)
        with ctx.database.transaction(repeatable_read=True) as tx:
            found = chain.verify_chain(tx, kept)
    if as_json:
        result = {"head": str(found.head), "events": found.events, "redacted": found.redacted}
        print_json(result | {"problems": found.problems})
    else:
        for problem in found.problems[:100]:
            print_text(problem)
    if found.problems:
        raise Corrupt(
            f"the audit log has {len(found.problems)} problems",
            "compare it with a backup or an export; somebody wrote to the database directly",
        )
    if not as_json:
        console.print(f"{found.events} events, none changed, removed, inserted or reordered")
        if found.redacted:
            console.print(f"the content of {found.redacted} events was taken down")
        print_text(found.head)
