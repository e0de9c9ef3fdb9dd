"""Commands for the schema of the database: check and upgrade (administrators)."""

from __future__ import annotations

from typing import Any

import typer

from curation.cli.output import (
    ACTOR,
    DryRun,
    Json,
    console,
    context,
    print_json,
    print_result,
    print_text,
    settings,
)

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(as_json: Json = False) -> None:
    """Compare the schema of the database with this version; exit code 2 if they differ."""
    from curation.db import schema
    from curation.runtime.context import open_database

    with open_database(settings()) as database:
        with database.transaction() as tx:
            state = schema.read_state(tx)
        drift = [] if not state.current else schema.find_schema_drift(database)
        if as_json:
            print_json(_as_dict(state) | {"drift": [str(item) for item in drift]})
        schema.check(database)
    # Only an administrator's own change of the tables makes them differ at the same revision.
    if drift:
        raise schema.SchemaMismatch(
            f"the database has schema {state.revision}, but its tables differ: {drift}",
            "undo the change that was made to the tables outside of Layerloop",
        )
    if not as_json:
        print_text(f"schema {state.revision} is the newest")


@app.command()
def upgrade(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Migrate the database to the schema of this version, and install its queue.

    An embedded database is upgraded by every command. On a server, stop the processes of the
    former version first. Upgrades on two machines at once are safe.
    """
    from curation.db import schema
    from curation.runtime.context import open_database, upgrade_database

    config = settings()
    if dry_run:
        with open_database(config) as database, database.transaction() as tx:
            state = schema.read_state(tx)
        if as_json:
            print_json(_as_dict(state))
        else:
            print_text(f"{len(state.pending)} revisions to apply", *state.pending)
        return
    before = upgrade_database(config)
    message = (
        f"upgraded the schema from {before.revision or 'an empty database'} to {before.newest}"
        if before.pending
        else f"nothing to do: schema {before.newest} is the newest"
    )
    print_result(message, as_json, **_as_dict(before))
    if not as_json and before.pending:
        console.print("start the processes of this version now")


@app.command(name="reset-secret")
def reset_secret(as_json: Json = False) -> None:
    """Forget the secret that signs cookies and URLs; everybody signs in again.

    Stop the API and the workers before. The next one that starts stores its LAYERLOOP_SECRET, or a
    new secret.
    """
    from curation.db import secrets

    with context() as ctx, ctx.database.transaction() as tx:
        found = secrets.reset_secret(tx)
        if found:
            tx.log(ACTOR, "secret reset", "instance")
    print_result("the secret is forgotten" if found else "there was none", as_json, reset=found)


def _as_dict(state: Any) -> dict[str, Any]:
    return {
        "revision": state.revision,
        "newest": state.newest,
        "pending": list(state.pending),
        "newer": state.newer,
    }
