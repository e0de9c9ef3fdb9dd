"""People and programs: reviewers, their sign-ins, and API tokens."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.tables.columns import SHA, created_at, metadata, one_of
from curation.domain import Role

# People, and the built-in reviewers: the rule reviewer and the auto-reviewer.
reviewers = sa.Table(
    "reviewers",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    # Why missed gold paused them; null while they may decide.
    sa.Column("paused", sa.Text),
    # Gold before this time no longer counts against them.
    sa.Column("resumed_at", sa.DateTime(timezone=True)),
    created_at(),
    sa.CheckConstraint("kind in ('person', 'rule_reviewer', 'auto_reviewer')", name="kind"),
    one_of("role", Role),
)

# Only the hash of a sign-in token is stored, so that a copy of the database gives no access.
sign_in_tokens = sa.Table(
    "sign_in_tokens",
    metadata,
    sa.Column("hash", SHA, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("used_at", sa.DateTime(timezone=True)),
    created_at(),
)

# Sessions are checked at every request, so that a sign-out takes effect everywhere. Only the hash
# of a session's token is stored.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", SHA, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False, index=True),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    # Where the session at the identity provider ends.
    sa.Column("sign_out_url", sa.Text),
    created_at(),
)

# Who a person is at an identity provider.
reviewer_identities = sa.Table(
    "reviewer_identities",
    metadata,
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    created_at(),
)

# API tokens of programs; only the hash of a token is stored.
api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", SHA, nullable=False, unique=True),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("last_used_at", sa.DateTime(timezone=True)),
    sa.Column("revoked_at", sa.DateTime(timezone=True)),
    created_at(),
)

sa.Index(
    "uq_api_tokens_active",
    api_tokens.c.name,
    unique=True,
    postgresql_where=api_tokens.c.revoked_at.is_(None),
)
