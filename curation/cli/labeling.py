"""Commands for rounds that are annotated in Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.output import (
    ACTOR,
    MAX_ID,
    Json,
    console,
    context,
    print_json,
    print_result,
    print_rows,
)

if TYPE_CHECKING:
    from curation.errors import LayerloopError
    from curation.labeling.sync import LabelingSync
    from curation.runtime.context import AppContext

SHOWN = 20
"""Maximum number of printed annotations that did not count."""

app = typer.Typer(no_args_is_help=True)

RoundNumber = Annotated[
    int, typer.Argument(help="The round's number, as 'round list' shows it.", max=MAX_ID)
]
Round = Annotated[int | None, typer.Option("--round", help="Only this round.", max=MAX_ID)]


@app.command()
def status(as_json: Json = False) -> None:
    """Show the connection, and the projects with their tasks, annotations and rejected annotations.

    Exit code 5 if Label Studio does not answer or does not accept the token.
    """
    from curation.labeling import projects, tasks

    with context() as ctx:
        with ctx.database.transaction() as tx:
            rows, excluded = projects.list_projects(tx), projects.list_excluded_rounds(tx)
            refusals = tasks.list_refusals(tx)
        account, failure = _account(ctx)

    # Attach to each project the annotations that did not count in it.
    for row in rows:
        row["refusals"] = [
            refusal
            for refusal in refusals
            if (refusal["round"], refusal["project"]) == (row["round"], row["remote_id"])
        ]
    print_rows(rows, {heading: itemgetter(key) for heading, key in _PROJECT_TABLE.items()}, as_json)
    if not as_json:
        _print_refusals(refusals)
        for row in excluded:
            console.print(f"round {row['round']} is not pushed to Label Studio: {row['reason']}")
        console.print(
            "gold is shown on the review page only: Label Studio users are not tested with it"
        )
    if account:
        console.print(f"connected to {ctx.settings.labeling_url} as {account}")
    # The stored state is printed first, also where the connection fails.
    if failure is not None:
        raise failure


# Heading of the table of projects -> key of its rows.
_PROJECT_TABLE = {
    "round": "round",
    "part": "part",
    "server": "server_url",
    "project": "remote_id",
    "active": "active",
    "to push": "sending",
    "open": "open",
    "annotated": "annotated",
    "not accepted": "not_accepted",
    "decisions": "decisions",
    "pending": "pending",
    "not counted": "refused",
    "last pull": "pulled_at",
    "error": "error",
}


def _account(ctx: AppContext) -> tuple[str, LayerloopError | None]:
    """Return the account of our token, or the connection error; neither if none is configured."""
    from contextlib import closing

    from curation.errors import LayerloopError
    from curation.runtime.context import open_labeling_backend

    try:
        backend = open_labeling_backend(ctx.settings, ctx.signing_secret())
        if backend is None:
            return "", None
        with closing(backend):
            return backend.whoami(), None
    except LayerloopError as error:
        return "", error


def _print_refusals(refusals: list[dict[str, Any]]) -> None:
    """Print the latest annotations that did not count."""
    for row in refusals[:SHOWN]:
        source = f"round {row['round']}, task {row['task']}, annotation {row['annotation']}"
        verdict = row["verdict"] or "no verdict"
        console.print(f"not counted: {source}, {verdict} by {row['user']}: {row['reason']}")
    if len(refusals) > SHOWN:
        console.print(f"... and {len(refusals) - SHOWN} more; --json lists all")


@app.command("push")
def push(round_id: RoundNumber, as_json: Json = False) -> None:
    """Push waiting candidates of a round as tasks, and remove the tasks of decided ones.

    Workers do this continuously.
    """
    total = {"pushed": 0, "removed": 0}
    with _open_sync() as sync:
        # One batch a call; nothing moved means that the projects are up to date.
        while moved := sync.push(round_id):
            total = {name: count + moved[name] for name, count in total.items()}
    print_json(total) if as_json else console.print(
        f"{total['pushed']} tasks pushed, {total['removed']} removed"
    )


@app.command()
def pull(
    round_id: Round = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Read all annotations again, not only changed ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pull new annotations from Label Studio; workers do this continuously."""
    with _open_sync() as sync:
        outcomes = sync.pull(round_id, everything=everything)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    print_json(dict(outcomes)) if as_json else console.print(counts or "nothing new")


@app.command()
def reconcile(
    round_id: Round = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Repair what can be repaired, then print what is left.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare our records with Label Studio in full and print the differences.

    Exit code 1 if differences are left that --apply can repair.
    """
    from curation.labeling import reconcile as reconciliation

    with _open_sync() as sync:
        if apply:
            reconciliation.repair(sync, round_id)
        # Compare after the repair, so that only the remaining differences are printed.
        found = reconciliation.compare(sync, round_id)
    rows = [difference.__dict__ for difference in found]
    columns = {
        "kind": itemgetter("kind"),
        "round": itemgetter("round"),
        "remote id": itemgetter("remote_id"),
        "repairable": itemgetter("repairable"),
        "description": itemgetter("message"),
    }
    print_rows(rows, columns, as_json)
    if any(difference.repairable for difference in found):
        raise typer.Exit(1)


@app.command()
def switch(
    round_id: RoundNumber,
    interface: Annotated[
        str, typer.Argument(help="'label-studio', or 'pages' for the review page.")
    ],
    as_json: Json = False,
) -> None:
    """Move a round to another labeling tool, at any time; open candidates move, decisions stay."""
    from curation.labeling import projects

    with context() as ctx, ctx.database.transaction() as tx:
        warning = projects.switch_interface(tx, round_id, interface, ACTOR)
    if warning:
        console.print(f"warning: {warning}")
    message = f"round {round_id} is labeled in {interface}; the review page serves every open round"
    print_result(message, as_json, round=round_id, labeling=interface)


@app.command()
def users(
    match: Annotated[
        str | None, typer.Option(help="EMAIL=NAME: assign this e-mail address to that reviewer.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the Label Studio users by e-mail address, with the reviewer of each."""
    from curation.labeling import users as labeling_users

    with context() as ctx, ctx.database.transaction() as tx:
        if match is not None:
            email, _, name = match.partition("=")
            labeling_users.assign_reviewer_by_name(tx, email, name, ACTOR)
        rows = labeling_users.list_users(tx)
    columns = {
        "e-mail": itemgetter("email"),
        "reviewer": itemgetter("name"),
        "kind": itemgetter("kind"),
        "active": itemgetter("active"),
        "since": itemgetter("created_at"),
    }
    print_rows(rows, columns, as_json)


@contextmanager
def _open_sync() -> Iterator[LabelingSync]:
    """Open the synchronization with Label Studio. Raises Refused if none is configured."""
    from curation.errors import Refused
    from curation.runtime.context import open_labeling_sync

    with context() as ctx, open_labeling_sync(ctx, ACTOR) as sync:
        if sync is None:
            raise Refused(
                "no labeling tool is configured, only the review page",
                "set LAYERLOOP_LABELING=label-studio+http://...",
            )
        yield sync
