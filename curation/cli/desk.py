"""Commands of data engineers: rounds at a desk of other software."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.show import ACTOR, LARGEST, Json, house, print_done, print_json, print_rows, talk

if TYPE_CHECKING:
    from curation.desk.exchange import Exchange

app = typer.Typer(no_args_is_help=True)

Number = Annotated[int, typer.Argument(help="The round's number, as 'round list' shows it.", max=LARGEST)]
Round = Annotated[int | None, typer.Option("--round", help="Of this round alone.", max=LARGEST)]


@app.command()
def status(as_json: Json = False) -> None:
    """Every board there: what is up, what was answered, and which answers could not become decisions."""
    from curation.desk import boards

    with house() as opened, opened.database.transaction() as tx:
        rows = boards.list_boards(tx)
    counts = ["sending", "up", "answered", "decisions", "pending", "refused"]
    columns = ["round", "part", "desk", "number", "serving", *counts, "collected_at"]
    print_rows(rows, {name: itemgetter(name) for name in columns}, as_json)


@app.command("put-up")
def put_up(number: Number, as_json: Json = False) -> None:
    """Show what waits of a round there, and take down what is decided; workers do the same all the time."""
    total = {"up": 0, "down": 0}
    with _exchange() as exchange:
        while moved := exchange.put_up(number):
            total = {name: count + moved[name] for name, count in total.items()}
    print_json(total) if as_json else talk.print(f"{total['up']} put up, {total['down']} taken down")


@app.command()
def collect(
    number: Round = None,
    everything: Annotated[bool, typer.Option("--all", help="Read everything again, not only what changed.")] = False,
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
    apply: Annotated[bool, typer.Option("--apply", help="Mend what rules can mend, then tell what is left.")] = False,
    as_json: Json = False,
) -> None:
    """Compare both sides whole and print what differs; exit code 1 while anything does that can be mended."""
    from curation.desk import drift

    with _exchange() as exchange:
        if apply:
            drift.mend(exchange, number)
        found = drift.compare(exchange, number)
    rows = [one.__dict__ for one in found]
    print_rows(rows, {name: itemgetter(name) for name in ("kind", "round", "number", "mendable", "told")}, as_json)
    if any(one.mendable for one in found):
        raise typer.Exit(1)


@app.command()
def switch(
    number: Number,
    desk: Annotated[str, typer.Argument(help="'label-studio', or 'pages' alone.")],
    as_json: Json = False,
) -> None:
    """Move a round to another desk, in its middle too: what is open goes with it, what is decided stays."""
    from curation.desk import boards

    with house() as opened, opened.database.transaction() as tx:
        boards.switch(tx, number, desk, ACTOR)
    told = f"round {number} is decided at: {desk}; the pages serve every open round"
    print_done(told, as_json, round=number, desk=desk)


@app.command()
def people(
    match: Annotated[str | None, typer.Option(help="EMAIL=NAME: from now on this address is that reviewer.")] = None,
    as_json: Json = False,
) -> None:
    """Who was seen there, by e-mail address, and which reviewer each of them is."""
    from curation.desk import people as room

    with house() as opened, opened.database.transaction() as tx:
        if match is not None:
            email, _, name = match.partition("=")
            room.match_by_name(tx, email, name, ACTOR)
        rows = room.list_people(tx)
    print_rows(rows, {name: itemgetter(name) for name in ("email", "name", "kind", "active", "at")}, as_json)


@contextmanager
def _exchange() -> Iterator[Exchange]:
    from curation.errors import Refused
    from curation.house import open_exchange

    with house() as opened, open_exchange(opened, ACTOR) as exchange:
        if exchange is None:
            raise Refused("people look at the pages alone", "LAYERLOOP_DESK=label-studio+http://... names another desk")
        yield exchange
