"""Lists of commands: the option --limit, and a page of rows with how to get the next one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Annotated, Any

import typer

from curation.cli.output import console, print_rows

Limit = Annotated[
    int, typer.Option("--limit", min=0, max=2**31 - 1, help="Largest number of rows; 0 for all.")
]


def print_page(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Callable[[Any], Any]],
    limit: int,
    as_json: bool,
    key: Callable[[Any], Any] = itemgetter("id"),
) -> None:
    """Print a page of a list, and on stderr how to get the next one if there are more rows.

    Args:
        rows: The rows, one more than the limit if there are more (see `query_limit`).
        columns: As of `print_rows`.
        limit: The largest number of rows, 0 for all.
        as_json: Print JSON instead of a table.
        key: The function that returns the value of --after that continues after a row.
    """
    shown = rows[:limit] if limit else rows
    print_rows(shown, columns, as_json)
    if len(shown) < len(rows):
        following = shlex.quote(str(key(shown[-1])))
        console.print(f"there are more: --after {following} continues, --limit 0 lists all")


def query_limit(limit: int) -> int:
    """Return the number of rows to query so that a truncated listing is noticed; 0 is all."""
    return limit + 1 if limit else 0
