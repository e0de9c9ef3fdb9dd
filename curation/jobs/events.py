"""The job that sends events to webhooks."""

from __future__ import annotations

from curation.adapters.webhook_sender import WebhookSender, parse_networks
from curation.events import deliveries
from curation.runtime.context import AppContext


def deliver_webhooks(context: AppContext) -> None:
    """Send all deliveries that are due."""
    sender = WebhookSender(parse_networks(context.settings.webhook_networks))
    deliveries.deliver_all_due(context.database, sender.send)
