"""Commands for webhooks: receivers of events, and deliveries to them (administrators)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curation.cli.lists import Limit, print_page, query_limit
from curation.cli.output import (
    ACTOR,
    MAX_ID,
    Json,
    console,
    context,
    print_json,
    print_result,
    print_rows,
    print_text,
)

if TYPE_CHECKING:
    from curation.adapters.webhook_sender import WebhookSender
    from curation.settings import Settings

app = typer.Typer(no_args_is_help=True)

Id = Annotated[int, typer.Argument(help="The webhook's id.", min=1, max=MAX_ID)]


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="URL of the receiver, https://host/path.")],
    events: Annotated[
        str,
        typer.Option(help="Events, comma separated, such as round.closed,snapshot.frozen."),
    ],
    as_json: Json = False,
) -> None:
    """Send events to a URL from now on, and print the secret that signs them."""
    from curation.events import webhooks

    names = [name.strip() for name in events.split(",") if name.strip()]
    with context(create=True) as ctx:
        _sender(ctx.settings).check(url)
        with ctx.database.transaction() as tx:
            id_, secret = webhooks.add_webhook(tx, url, names, ACTOR)
    if as_json:
        print_json({"webhook": id_, "url": url, "events": names, "secret": secret})
        return
    console.print(f"webhook {id_} gets {', '.join(names)}; 'layerloop webhook test {id_}' tries it")
    print_text(secret)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List webhooks with their events and their numbers of deliveries."""
    from curation.events import webhooks

    with context() as ctx, ctx.database.transaction() as tx:
        rows = webhooks.list_webhooks(tx)
    columns: dict[str, Callable[[Any], Any]] = {
        "id": itemgetter("id"),
        "url": itemgetter("url"),
        "events": _events,
        "state": _state,
        "pending": itemgetter("pending"),
        "delivered": itemgetter("delivered"),
        "failed": itemgetter("failed"),
    }
    print_rows(rows, columns, as_json)


@app.command()
def remove(webhook: Id, as_json: Json = False) -> None:
    """Remove a webhook with its deliveries."""
    from curation.events import webhooks

    with context() as ctx, ctx.database.transaction() as tx:
        webhooks.remove_webhook(tx, webhook, ACTOR)
    print_result(f"webhook {webhook} is removed", as_json, webhook=webhook, removed=True)


@app.command()
def enable(webhook: Id, as_json: Json = False) -> None:
    """Enable a webhook that was disabled after long failure; what waits is sent now."""
    from curation.events import webhooks

    with context() as ctx, ctx.database.transaction() as tx:
        webhooks.enable_webhook(tx, webhook, ACTOR)
    print_result(f"webhook {webhook} is enabled", as_json, webhook=webhook, active=True)


@app.command("test")
def send_test(webhook: Id, as_json: Json = False) -> None:
    """Send the event webhook.tested now, and print what the receiver answered."""
    from curation.errors import Unreachable
    from curation.events import deliveries, webhooks

    with context() as ctx:
        with ctx.database.transaction() as tx:
            delivery = webhooks.add_test_delivery(tx, webhook, ACTOR)
        outcomes = deliveries.deliver(ctx.database, _sender(ctx.settings).send, delivery)
    # None if a worker was faster.
    outcome = outcomes[0] if outcomes else deliveries.Outcome(None, "a worker sends it")
    if not outcome.delivered:
        raise Unreachable(
            f"the test was not delivered: {outcome.error}",
            f"'layerloop webhook deliveries --webhook {webhook}' shows later attempts",
        )
    print_result(
        f"the receiver answered {outcome.status}", as_json, webhook=webhook, status=outcome.status
    )


@app.command()
def deliveries(
    webhook: Annotated[
        int | None, typer.Option(help="Only those of this webhook.", min=1, max=MAX_ID)
    ] = None,
    state: Annotated[str, typer.Option(help="Only pending, delivered or failed ones.")] = "",
    limit: Limit = 50,
    after: Annotated[
        uuid.UUID | None, typer.Option(help="List deliveries older than this one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List deliveries, newest first, with their attempts and the last error."""
    from curation.events import webhooks

    with context() as ctx, ctx.database.transaction() as tx:
        rows = webhooks.list_deliveries(
            tx, webhook=webhook, state=state, limit=query_limit(limit), after=after
        )
    columns = {
        "delivery": itemgetter("id"),
        "webhook": itemgetter("webhook_id"),
        "event": itemgetter("event"),
        "subject": itemgetter("subject"),
        "state": itemgetter("state"),
        "attempts": itemgetter("attempts"),
        "last error": itemgetter("last_error"),
        "time": itemgetter("created_at"),
    }
    print_page(rows, columns, limit, as_json)


@app.command()
def replay(
    delivery: Annotated[
        uuid.UUID | None, typer.Argument(help="A delivery; default: see --failed.")
    ] = None,
    failed: Annotated[
        int | None,
        typer.Option(help="All failed deliveries of this webhook.", min=1, max=MAX_ID),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send deliveries again; a worker sends them under their former message ids."""
    from curation.errors import Refused
    from curation.events import webhooks

    if (delivery is None) == (failed is None):
        raise Refused("name either a delivery or --failed WEBHOOK", "see 'webhook deliveries'")
    with context() as ctx, ctx.database.transaction() as tx:
        count = webhooks.replay(tx, delivery=delivery, webhook=failed)
    print_result(f"{count} deliveries are sent again", as_json, replayed=count)


def _sender(settings: Settings) -> WebhookSender:
    from curation.adapters.webhook_sender import WebhookSender, parse_networks

    return WebhookSender(parse_networks(settings.webhook_networks))


def _events(row: dict[str, Any]) -> str:
    return " ".join(row["events"])


def _state(row: dict[str, Any]) -> str:
    if not row["active"]:
        return f"disabled: {row['disabled_reason']}"
    return "failing" if row["failing_since"] else "active"
