"""Commands for the API tokens of programs (administrators)."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Annotated, Any

import typer

from curation.access.scopes import Scope
from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    ACTOR,
    MAX_ID,
    Json,
    context,
    print_json,
    print_result,
    print_text,
)
from curation.errors import Refused

app = typer.Typer(no_args_is_help=True)

SECONDS = {"m": 60, "h": 3_600, "d": 86_400}

Name = Annotated[str, typer.Argument(help="The token's name, such as the program that uses it.")]


@app.command()
def create(
    name: Name,
    scope: Annotated[
        list[Scope], typer.Option(help="What the token allows; repeat it for several.")
    ],
    expires: Annotated[
        str, typer.Option(help="Lifetime in minutes, hours or days: 90m, 12h or 30d.")
    ] = "30d",
    as_json: Json = False,
) -> None:
    """Create an API token and print it; it cannot be shown again."""
    from curation.access import tokens

    seconds = parse_lifetime(expires)
    with context(create=True) as ctx, ctx.database.transaction() as tx:
        token = tokens.create_token(tx, name, scope, seconds, ACTOR)
    print_json({"name": name.strip(), "token": token, "scopes": scope}) if as_json else print_text(
        token
    )


@app.command("list")
def list_(
    limit: Limit = 100,
    after: Annotated[
        int | None,
        typer.Option(help="List tokens older than this one, by its id.", min=1, max=MAX_ID),
    ] = None,
    as_json: Json = False,
) -> None:
    """List API tokens with their scopes, their expiry and their last use, newest first."""
    from curation.access import tokens

    with context() as ctx, ctx.database.transaction() as tx:
        rows = tokens.list_tokens(tx, query_limit(limit), after)
    columns: dict[str, Callable[[Any], Any]] = {
        "name": itemgetter("name"),
        "state": itemgetter("state"),
        "scopes": _scopes,
        "expires": itemgetter("expires_at"),
        "last used": itemgetter("last_used_at"),
        "created by": itemgetter("created_by"),
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def revoke(name: Name, as_json: Json = False) -> None:
    """Revoke an API token at once."""
    from curation.access import tokens

    with context() as ctx, ctx.database.transaction() as tx:
        tokens.revoke_token(tx, name.strip(), ACTOR)
    print_result(f"the token {name} is revoked", as_json, name=name.strip(), state="revoked")


def _scopes(row: dict[str, Any]) -> str:
    return " ".join(row["scopes"])


def parse_lifetime(text: str) -> int:
    """Return the seconds of a lifetime such as 90m, 12h or 30d. Raises Refused."""
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text.strip())
    if found is None:
        raise Refused(f"{text!r} is no lifetime", "write a number and m, h or d, such as 30d")
    return int(found[1]) * SECONDS[found[2]]
