"""Commands for rounds in Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.output import (
    ACTOR,
    LARGEST,
    Json,
    context,
    print_done,
    print_json,
    print_rows,
    talk,
)

if TYPE_CHECKING:
    from curation.errors import LayerloopError
    from curation.labeling.sync import LabelingSync
    from curation.runtime.context import AppContext

SHOWN = 20
"""Answers that did not count, printed at most."""

app = typer.Typer(no_args_is_help=True)

Number = Annotated[
    int, typer.Argument(help="The round's number, as 'round list' shows it.", max=LARGEST)
]
Round = Annotated[int | None, typer.Option("--round", help="Of this round alone.", max=LARGEST)]


@app.command()
def status(as_json: Json = False) -> None:
    """Whether the desk answers, and every board there: what is up, what was answered, what did not count and why.

    Exit code 5 where the desk does not answer or does not accept the token.
    """
    from curation.labeling import projects, tasks

    with context() as ctx:
        with ctx.database.transaction() as tx:
            rows, away = projects.list_boards(tx), projects.list_kept_away(tx)
            refusals = tasks.list_refusals(tx)
        account, failure = _account(ctx)
    for row in rows:
        row["refusals"] = [
            one
            for one in refusals
            if (one["round"], one["project"]) == (row["round"], row["number"])
        ]
    counts = ["sending", "up", "answered", "not_taken", "decisions", "pending", "refused"]
    columns = ["round", "part", "desk", "number", "serving", *counts, "collected_at", "trouble"]
    columns += ["refusals"] if as_json else []
    print_rows(rows, {name: itemgetter(name) for name in columns}, as_json)
    if not as_json:
        _tell_refusals(refusals)
        for row in away:
            talk.print(f"round {row['round']} is not offered there: {row['why']}")
        talk.print("gold is hidden at the pages alone: nobody at the desk is tested with it")
    if account:
        talk.print(f"{ctx.settings.other_desk} answers; the token is of {account}")
    if failure is not None:
        raise failure


def _account(ctx: AppContext) -> tuple[str, LayerloopError | None]:
    """The account that the desk knows us by, or why it does not answer; neither where there is no other desk."""
    from contextlib import closing

    from curation.errors import LayerloopError
    from curation.runtime.context import open_desk

    try:
        desk = open_desk(ctx.settings)
        if desk is None:
            return "", None
        with closing(desk):
            return desk.whoami(), None
    except LayerloopError as error:
        return "", error


def _tell_refusals(refusals: list[dict[str, Any]]) -> None:
    """Print the latest answers that did not count."""
    for one in refusals[:SHOWN]:
        where = f"round {one['round']}, task {one['task']}, annotation {one['annotation']}"
        talk.print(
            f"not counted: {where}, {one['person']} said {one['verdict'] or 'nothing'}: {one['why']}"
        )
    if len(refusals) > SHOWN:
        talk.print(f"... and {len(refusals) - SHOWN} more: --json lists them")


@app.command("put-up")
def put_up(number: Number, as_json: Json = False) -> None:
    """Show what waits of a round there, and take down what is decided; workers do the same all the time."""
    total = {"up": 0, "down": 0}
    with _exchange() as exchange:
        while moved := exchange.put_up(number):
            total = {name: count + moved[name] for name, count in total.items()}
    print_json(total) if as_json else talk.print(
        f"{total['up']} put up, {total['down']} taken down"
    )


@app.command()
def collect(
    number: Round = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Read everything again, not only what changed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring home what people said there; workers do the same all the time."""
    with _exchange() as exchange:
        outcomes = exchange.collect(number, everything=everything)
    told = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) or "nothing new"
    print_json(dict(outcomes)) if as_json else talk.print(told)


@app.command()
def reconcile(
    number: Round = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Mend what rules can mend, then tell what is left.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare both sides whole and print what differs; exit code 1 while anything does that can be mended."""
    from curation.labeling import reconcile as drift

    with _exchange() as exchange:
        if apply:
            drift.mend(exchange, number)
        found = drift.compare(exchange, number)
    rows = [one.__dict__ for one in found]
    print_rows(
        rows,
        {name: itemgetter(name) for name in ("kind", "round", "number", "mendable", "told")},
        as_json,
    )
    if any(one.mendable for one in found):
        raise typer.Exit(1)


@app.command()
def switch(
    number: Number,
    desk: Annotated[str, typer.Argument(help="'label-studio', or 'pages' alone.")],
    as_json: Json = False,
) -> None:
    """Move a round to another desk, in its middle too: what is open goes with it, what is decided stays."""
    from curation.labeling import projects

    with context() as ctx, ctx.database.transaction() as tx:
        warning = projects.switch(tx, number, desk, ACTOR)
    if warning:
        talk.print(f"warning: {warning}")
    told = f"round {number} is decided at: {desk}; the pages serve every open round"
    print_done(told, as_json, round=number, desk=desk)


@app.command()
def people(
    match: Annotated[
        str | None, typer.Option(help="EMAIL=NAME: from now on this address is that reviewer.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Who was seen there, by e-mail address, and which reviewer each of them is."""
    from curation.labeling import users as room

    with context() as ctx, ctx.database.transaction() as tx:
        if match is not None:
            email, _, name = match.partition("=")
            room.match_by_name(tx, email, name, ACTOR)
        rows = room.list_people(tx)
    print_rows(
        rows,
        {name: itemgetter(name) for name in ("email", "name", "kind", "active", "at")},
        as_json,
    )


@contextmanager
def _exchange() -> Iterator[LabelingSync]:
    from curation.errors import Refused
    from curation.runtime.context import open_labeling_sync

    with context() as ctx, open_labeling_sync(ctx, ACTOR) as exchange:
        if exchange is None:
            raise Refused(
                "people look at the pages alone",
                "LAYERLOOP_DESK=label-studio+http://... names another desk",
            )
        yield exchange
