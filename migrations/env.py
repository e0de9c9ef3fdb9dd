"""Alembic's environment: migrations run on the connection that the instance passes."""

from alembic import context

from curation.db.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, compare_server_default=False)
with context.begin_transaction():
    context.run_migrations()
