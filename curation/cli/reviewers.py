"""Commands for reviewers and their access (administrators)."""

from __future__ import annotations

from operator import itemgetter
from typing import Annotated

import typer

from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    ACTOR,
    Json,
    bold,
    console,
    context,
    print_json,
    print_result,
    print_text,
)
from curation.domain import Role

app = typer.Typer(no_args_is_help=True)

Who = Annotated[str, typer.Argument(help="The reviewer's name.")]


@app.command()
def add(
    name: Who,
    role: Annotated[Role, typer.Option(help="Their role.")] = Role.annotator,
    as_json: Json = False,
) -> None:
    """Add a reviewer who may sign in; no change if one with this name and role exists."""
    from curation.review import reviewers

    with context(create=True) as ctx, ctx.database.transaction() as tx:
        # Adding an existing reviewer changes nothing, so only a new one is logged.
        known = name.strip() in reviewers.reviewer_names(tx)
        reviewers.add_reviewer(tx, name, role)
        if not known:
            tx.log(ACTOR, "reviewer added", name, role=role)
    message = f"{name} exists already" if known else f"{name} is added"
    hint = f"; 'layerloop reviewer token {name}' prints a sign-in token"
    print_result(message + hint, as_json, reviewer=name.strip(), role=role, added=not known)


@app.command()
def token(
    name: Who,
    minutes: Annotated[int, typer.Option(help="Lifetime of the token.", min=1, max=525_600)] = 60,
    as_json: Json = False,
) -> None:
    """Print a one-time sign-in token of a reviewer, and the link that signs in with it."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        token = reviewers.issue_token(tx, reviewers.find_reviewer(tx, name), minutes)
        tx.log(ACTOR, "sign-in token issued", name, minutes=minutes)
    link = f"{ctx.settings.public_address}/sign-in?token={token}"
    if as_json:
        print_json({"reviewer": name, "token": token, "link": link, "minutes": minutes})
        return
    console.print("open ", bold(link), f" within {minutes} minutes; it signs in once")
    print_text(token)


@app.command("list")
def list_(
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option(help="List reviewers after this one, by name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List reviewers, including the rule reviewer, oldest first."""
    from dataclasses import asdict

    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        found = reviewers.list_reviewers(tx, limit=query_limit(limit), after=after)
    rows = [asdict(reviewer) for reviewer in found]
    columns = {
        "name": itemgetter("name"),
        "kind": itemgetter("kind"),
        "role": itemgetter("role"),
        "active": itemgetter("active"),
        "paused": itemgetter("paused"),
    }
    print_page(rows, columns, limit, as_json, itemgetter("name"))


@app.command()
def stats(
    name: Annotated[str | None, typer.Argument(help="The reviewer's name; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Show the speed, agreement, gold results, runs and fatigue of reviewers."""
    from curation.reporting import reviewer_stats
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        if name is None:
            stats = reviewer_stats.all_statistics(tx)
        else:
            stats = [
                reviewer_stats.reviewer_statistics(
                    tx, reviewers.find_reviewer(tx, name), to_themselves=False
                )
            ]
    print_json(stats) if as_json else print_text(
        "\n".join(reviewer_stats.as_text(row) for row in stats)
    )


@app.command()
def resume(name: Who, as_json: Json = False) -> None:
    """Resume a reviewer who was paused for failing gold."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        reviewers.resume_reviewer(tx, reviewers.find_reviewer(tx, name), ACTOR)
    print_result(
        f"{name} is resumed; their gold accuracy starts over", as_json, reviewer=name, paused=False
    )


@app.command()
def deactivate(name: Who, as_json: Json = False) -> None:
    """Deactivate a reviewer immediately; their decisions are kept."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, name))
        tx.log(ACTOR, "reviewer deactivated", name)
    print_result(f"{name} can no longer sign in", as_json, reviewer=name, active=False)


@app.command()
def reactivate(name: Who, as_json: Json = False) -> None:
    """Reactivate a reviewer; they sign in with a new token."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        reviewers.reactivate(tx, reviewers.find_reviewer(tx, name))
        tx.log(ACTOR, "reviewer reactivated", name)
    message = f"{name} is active again; 'layerloop reviewer token {name}' prints a sign-in token"
    print_result(message, as_json, reviewer=name, active=True)


@app.command("set-role")
def set_role(
    name: Who,
    role: Annotated[Role, typer.Argument(help="The new role.")],
    as_json: Json = False,
) -> None:
    """Give a reviewer another role; it holds from their next request on."""
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        reviewers.change_role(tx, reviewers.find_reviewer(tx, name), role, ACTOR)
    print_result(f"{name} has the role {role}", as_json, reviewer=name, role=role)


@app.command()
def link(
    name: Who,
    subject: Annotated[str, typer.Argument(help="The person's subject (claim sub) there.")],
    as_json: Json = False,
) -> None:
    """Let a reviewer sign in at the identity provider of the settings with their account there."""
    from curation.access import identities
    from curation.errors import Refused
    from curation.review import reviewers

    with context() as ctx, ctx.database.transaction() as tx:
        issuer = ctx.settings.oidc_issuer
        if issuer is None:
            raise Refused("there is no identity provider", "set LAYERLOOP_OIDC_ISSUER")
        identities.link_identity(tx, reviewers.find_reviewer(tx, name), issuer, subject, ACTOR)
    print_result(f"{name} can sign in at {issuer}", as_json, reviewer=name, subject=subject)


@app.command("sign-out")
def sign_out(name: Who, as_json: Json = False) -> None:
    """End all sessions of a reviewer and void their unused sign-in tokens."""
    from curation.review import reviewers
    from curation.review.sessions import end_sessions

    with context() as ctx, ctx.database.transaction() as tx:
        end_sessions(tx, reviewers.find_reviewer(tx, name).id)
        tx.log(ACTOR, "reviewer signed out", name)
    print_result(f"{name} is signed out everywhere", as_json, reviewer=name)
