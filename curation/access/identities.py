"""People of an identity provider: created at their first sign-in, with the role of their groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import reviewer_identities
from curation.domain import Role
from curation.errors import Conflict, Refused
from curation.review.reviewers import (
    PERSON,
    Reviewer,
    add_reviewer,
    change_role,
    find_reviewer,
    get_reviewer,
    reviewer_names,
)
from curation.review.sessions import end_sessions
from curation.text import escape_control_characters, is_storable

ACTOR = "identity provider"

RESERVED_NAMES = frozenset(
    {"api", "command line", "gold", "webhooks", "worker", "rule_reviewer", "auto_reviewer", ACTOR}
)
"""Names of programs in the event log, which no person may take."""


class NoMappedRole(Refused):
    """None of a person's groups has a role here."""

    def __init__(self) -> None:
        super().__init__(
            "none of your groups has access", "ask an administrator to add you to a group"
        )


class UnusableName(Conflict):
    """The name of a person at their first sign-in is missing, taken or reserved."""


@dataclass(frozen=True)
class Identity:
    """A person as the provider names them: issuer and subject identify them for ever."""

    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...]


def read_identity(
    issuer: str, claims: Mapping[str, Any], name_claim: str, roles_claim: str
) -> Identity:
    """Return the identity in the claims of a person.

    Args:
        issuer: The issuer, which was checked.
        claims: The claims.
        name_claim: Name of the claim with the person's name.
        roles_claim: Name of the claim with groups; dots lead into objects, as in
            realm_access.roles, unless a claim has the whole name.
    """
    found = claims.get(roles_claim)
    if found is None:
        found = claims
        for part in roles_claim.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    groups = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    name = claims.get(name_claim)
    return Identity(
        issuer,
        str(claims["sub"]),
        name.strip() if isinstance(name, str) else "",
        tuple(group for group in groups if isinstance(group, str)),
    )


def sign_in_identity(
    tx: Transaction, identity: Identity, roles: Mapping[str, Role]
) -> Reviewer | None:
    """Return the reviewer of an identity with the role of today's groups.

    A person is created at the first sign-in. Without a role nobody is created, and a known
    person's sessions end.

    Args:
        tx: The transaction.
        identity: The identity.
        roles: The role of each group; the highest counts.

    Returns:
        The reviewer; None if no group has a role.

    Raises:
        UnusableName: The name of a new person cannot be used.
        Refused: The reviewer is deactivated.
    """
    role = mapped_role(identity, roles)
    known = _find(tx, identity)
    if role is None:
        if known is not None:
            end_sessions(tx, known.id)
        return None
    if known is None:
        return _create(tx, identity, role)
    if not known.active:
        raise Refused("your account is deactivated", "ask an administrator")
    change_role(tx, known, role, ACTOR)
    return get_reviewer(tx, known.id)


def mapped_role(identity: Identity, roles: Mapping[str, Role]) -> Role | None:
    """Return the highest role of an identity's groups; None if none has one."""
    ascending = list(Role)
    found = [roles[group] for group in identity.groups if group in roles]
    return max(found, key=ascending.index, default=None)


def link_identity(
    tx: Transaction, reviewer: Reviewer, issuer: str, subject: str, actor: str
) -> None:
    """Let an existing reviewer sign in at the provider.

    Args:
        tx: The transaction.
        reviewer: A person.
        issuer: The issuer of the provider.
        subject: The person's subject (claim `sub`) at the provider.
        actor: Who links them.

    Raises:
        Refused: The reviewer is not a person, or the subject is empty.
        Conflict: The subject is linked already.
    """
    if reviewer.kind != PERSON or not subject.strip():
        raise Refused("a person and a subject are needed", "the claim 'sub' is the subject")
    if _find(tx, Identity(issuer, subject, "", ())) is not None:
        raise Conflict(f"the subject {subject!r} is linked already", "each person has one account")
    row = {"issuer": issuer, "subject": subject, "reviewer_id": reviewer.id}
    tx.execute(sa.insert(reviewer_identities).values(row))
    tx.log(actor, "reviewer linked", reviewer.name, issuer=issuer, identity=subject)


def _find(tx: Transaction, identity: Identity) -> Reviewer | None:
    query = sa.select(reviewer_identities.c.reviewer_id).where(
        reviewer_identities.c.issuer == identity.issuer,
        reviewer_identities.c.subject == identity.subject,
    )
    found = tx.scalar(query)
    return None if found is None else get_reviewer(tx, found)


def _create(tx: Transaction, identity: Identity, role: Role) -> Reviewer:
    """Create a person and their identity."""
    name = identity.name
    printable = is_storable(name) and escape_control_characters(name) == name and "\n" not in name
    if not 1 <= len(name) <= 100 or not printable or not is_storable(identity.subject):
        raise UnusableName(
            "the identity provider sends no usable name for you",
            "an administrator can choose another claim: LAYERLOOP_OIDC_NAME_CLAIM",
        )
    if name.lower() in RESERVED_NAMES or name.lower().startswith(("token ", "lease ")):
        raise UnusableName(f"the name {name!r} is reserved", "ask an administrator")
    if name in reviewer_names(tx):
        raise UnusableName(
            f"there is a reviewer {name!r} already",
            "an administrator can link the account: layerloop reviewer link",
        )
    reviewer = add_reviewer(tx, name, role)
    tx.log(ACTOR, "reviewer added", name, role=role)
    link_identity(tx, find_reviewer(tx, name), identity.issuer, identity.subject, ACTOR)
    return reviewer
