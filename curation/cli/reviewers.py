"""Commands of administrators: who may sign in, and as what."""

from __future__ import annotations

from operator import itemgetter
from typing import Annotated

import typer

from curation.cli.output import ACTOR, Json, context, print_done, print_json, print_rows, print_text
from curation.domain import Role

app = typer.Typer(no_args_is_help=True)

Who = Annotated[str, typer.Argument(help="The reviewer's name.")]


@app.command()
def add(
    name: Who,
    access: Annotated[Role, typer.Option(help="What they may do.")] = Role.annotator,
    as_json: Json = False,
) -> None:
    """Add a person who may sign in; one who is there already, with the same access, is left as they are."""
    from curation.review import reviewers

    with context(create=True) as ctx, ctx.database.transaction() as tx:
        known = name.strip() in reviewers.names(tx)
        reviewers.add_reviewer(tx, name, access)
        if not known:
            tx.log(ACTOR, "reviewer added", name, access=access)
    told = f"{name} exists already" if known else f"{name} is added"
    hint = f"; 'layerloop reviewer token {name}' lets them in"
    print_done(told + hint, as_json, reviewer=name.strip(), access=access, added=not known)


@app.command()
def token(
    name: Who,
    minutes: Annotated[int, typer.Option(help="How long it can be used.", min=1, max=525_600)] = 60,
    as_json: Json = False,
) -> None:
    """Print a token with which a person signs in once."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        token = reviewers.issue_token(tx, reviewers.find_reviewer(tx, name), minutes)
    print_json({"reviewer": name, "token": token, "minutes": minutes}) if as_json else print_text(
        token
    )


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Everybody who decides, the oracle too."""
    import sqlalchemy as sa

    from curation.db.tables import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        rows = [
            dict(row)
            for row in tx.execute(sa.select(reviewers).order_by(reviewers.c.id)).mappings()
        ]
    columns = {name: itemgetter(name) for name in ("name", "kind", "access", "active", "paused")}
    print_rows(rows, columns, as_json)


@app.command()
def figures(
    name: Annotated[
        str | None, typer.Argument(help="The reviewer's name; everybody's without it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How fast people decide, how they agree, what they notice in gold, and facts about runs and fatigue."""
    from curation.reporting import reviewer_stats
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        if name is None:
            told = reviewer_stats.all_figures(tx)
        else:
            told = [
                reviewer_stats.reviewer_figures(
                    tx, reviewers.find_reviewer(tx, name), to_themselves=False
                )
            ]
    print_json(told) if as_json else print_text(
        "\n".join(reviewer_stats.as_text(one) for one in told)
    )


@app.command()
def resume(name: Who, as_json: Json = False) -> None:
    """Let a person decide again whom their answers to gold have paused."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        reviewers.resume_reviewer(tx, reviewers.find_reviewer(tx, name), ACTOR)
    print_done(
        f"{name} may decide again; answers to gold count anew", as_json, reviewer=name, paused=False
    )


@app.command()
def deactivate(name: Who, as_json: Json = False) -> None:
    """Shut a person out at once; their decisions stay."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, name))
        tx.log(ACTOR, "reviewer deactivated", name)
    print_done(f"{name} can sign in no longer", as_json, reviewer=name, active=False)


@app.command()
def reactivate(name: Who, as_json: Json = False) -> None:
    """Let a deactivated person sign in again, with a new token."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        reviewers.reactivate(tx, reviewers.find_reviewer(tx, name))
        tx.log(ACTOR, "reviewer reactivated", name)
    told = f"{name} is active again; 'layerloop reviewer token {name}' lets them in"
    print_done(told, as_json, reviewer=name, active=True)


@app.command("sign-out")
def sign_out(name: Who, as_json: Json = False) -> None:
    """End every session of a person at once, and void sign-in tokens that were not used yet."""
    from curation.review import reviewers
    from curation.review.sessions import end_sessions

    with context() as ctx, ctx.database.transaction() as tx:
        end_sessions(tx, reviewers.find_reviewer(tx, name).id)
        tx.log(ACTOR, "reviewer signed out", name)
    print_done(f"{name} is signed out everywhere", as_json, reviewer=name)
