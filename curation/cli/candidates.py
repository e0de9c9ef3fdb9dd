"""Commands for candidates (data engineers)."""

from __future__ import annotations

from typing import Annotated

import typer

from curation.cli.output import MAX_ID, Json, context, print_limited, query_limit
from curation.domain import CandidateState

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    number: Annotated[
        int | None,
        typer.Option("--round", help="Only candidates of this round.", min=1, max=MAX_ID),
    ] = None,
    state: Annotated[
        CandidateState | None, typer.Option(help="Only candidates in this state.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Maximum number of rows; 0 for all.", min=0, max=MAX_ID)
    ] = 100,
    as_json: Json = False,
) -> None:
    """List candidates with prompt, seed, state, flags and layers."""
    from curation.rounds import lifecycle

    with context() as ctx, ctx.database.transaction() as tx:
        rows = lifecycle.list_candidates(tx, number, state, query_limit(limit))
    # The columns of the table; JSON output has all fields of the rows.
    columns = {
        "candidate": lambda r: r["id"].hex[:12],
        "round": lambda r: r["round"],
        "state": lambda r: r["state"],
        "seed": lambda r: r["seed"],
        "prompt": lambda r: r["prompt"],
        "flags": lambda r: ", ".join(r["flags"]),
        "note": lambda r: r["note"],
        "changed": lambda r: r["changed_at"],
    }
    print_limited(rows, columns, limit, as_json)
