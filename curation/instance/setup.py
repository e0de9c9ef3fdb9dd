"""The first start of an instance on servers: bucket, tables, queue and the first administrator."""

from __future__ import annotations

import sqlalchemy as sa

from curation.adapters.s3 import S3Store
from curation.db.engine import Transaction
from curation.db.tables import reviewers as people
from curation.domain import Role
from curation.review.reviewers import PERSON, add_reviewer, issue_token
from curation.runtime.context import open_store, upgrade_database
from curation.settings import Settings

LINK_MINUTES = 24 * 60


def prepare_servers(settings: Settings) -> bool:
    """Create what is missing of bucket, tables and queue; repeatable, also at the same time.

    Args:
        settings: The settings of the instance.

    Returns:
        Whether the bucket was created.

    Raises:
        LayerloopError: A server does not answer, or a permission is missing.
    """
    upgrade_database(settings)
    store = open_store(settings)
    return store.create_bucket() if isinstance(store, S3Store) else False


def sign_in_first_admin(tx: Transaction, name: str, address: str) -> str | None:
    """Add the first administrator.

    Args:
        tx: The transaction.
        name: Name of the administrator.
        address: URL of the API for browsers.

    Returns:
        A one-time link that signs in; None if there is an administrator already.
    """
    is_admin = (people.c.kind == PERSON) & (people.c.role == Role.admin) & people.c.active
    if tx.scalar(sa.select(sa.select(people).where(is_admin).exists())):
        return None
    admin = add_reviewer(tx, name, Role.admin)
    tx.log("setup", "reviewer added", name, role=Role.admin)
    return f"{address}/sign-in?token={issue_token(tx, admin, LINK_MINUTES)}"
