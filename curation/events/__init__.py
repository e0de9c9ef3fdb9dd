"""The event log as an audit log, and the webhooks that report its events."""
