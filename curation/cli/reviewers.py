"""Commands of administrators: who may sign in, and as what."""

from __future__ import annotations

from operator import itemgetter
from typing import Annotated

import typer

from curation.cli.show import ACTOR, Json, house, print_json, print_rows, talk
from curation.domain import Access

app = typer.Typer(no_args_is_help=True)

Who = Annotated[str, typer.Argument(help="The reviewer's name.")]


@app.command()
def add(name: Who, access: Annotated[Access, typer.Option(help="What they may do.")] = Access.annotator) -> None:
    """Add a person who may sign in."""
    from curation.review import reviewers

    with house() as opened, opened.database.transaction() as tx:
        reviewers.add_reviewer(tx, name, access)
        tx.log(ACTOR, "reviewer added", name, access=access)
    talk.print(f"{name} is added; 'layerloop reviewer token {name}' lets them in")


@app.command()
def token(name: Who, minutes: Annotated[int, typer.Option(help="How long it can be used.", min=1)] = 60) -> None:
    """Print a token with which a person signs in once."""
    from curation.review import reviewers

    with house() as opened, opened.database.transaction() as tx:
        print(reviewers.issue_token(tx, reviewers.find_reviewer(tx, name), minutes))


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Everybody who decides, the oracle too."""
    import sqlalchemy as sa

    from curation.tables import reviewers

    with house() as opened, opened.database.transaction() as tx:
        rows = [dict(row) for row in tx.execute(sa.select(reviewers).order_by(reviewers.c.id)).mappings()]
    columns = {name: itemgetter(name) for name in ("name", "kind", "access", "active", "paused")}
    print_rows(rows, columns, as_json)


@app.command()
def figures(
    name: Annotated[str | None, typer.Argument(help="The reviewer's name; everybody's without it.")] = None,
    as_json: Json = False,
) -> None:
    """How fast people decide, how they agree, what they notice in gold, and facts about runs and fatigue."""
    from curation.review import reviewers, standing

    with house() as opened, opened.database.transaction() as tx:
        if name is None:
            told = standing.all_figures(tx)
        else:
            told = [standing.reviewer_figures(tx, reviewers.find_reviewer(tx, name), to_themselves=False)]
    print_json(told) if as_json else print("\n".join(standing.as_text(one) for one in told))


@app.command()
def resume(name: Who) -> None:
    """Let a person decide again whom their answers to gold have paused."""
    from curation.review import reviewers

    with house() as opened, opened.database.transaction() as tx:
        reviewers.resume_reviewer(tx, reviewers.find_reviewer(tx, name), ACTOR)
    talk.print(f"{name} may decide again; answers to gold count anew")


@app.command()
def deactivate(name: Who) -> None:
    """Shut a person out at once; their decisions stay."""
    from curation.review import reviewers

    with house() as opened, opened.database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, name))
        tx.log(ACTOR, "reviewer deactivated", name)
    talk.print(f"{name} can sign in no longer")


@app.command()
def reactivate(name: Who) -> None:
    """Let a deactivated person sign in again, with a new token."""
    from curation.review import reviewers

    with house() as opened, opened.database.transaction() as tx:
        reviewers.reactivate(tx, reviewers.find_reviewer(tx, name))
        tx.log(ACTOR, "reviewer reactivated", name)
    talk.print(f"{name} is active again; 'layerloop reviewer token {name}' lets them in")


@app.command("sign-out")
def sign_out(name: Who) -> None:
    """End every session of a person at once, and void sign-in tokens that were not used yet."""
    from curation.review import reviewers
    from curation.review.sessions import end_sessions

    with house() as opened, opened.database.transaction() as tx:
        end_sessions(tx, reviewers.find_reviewer(tx, name).id)
        tx.log(ACTOR, "reviewer signed out", name)
    talk.print(f"{name} is signed out everywhere")
