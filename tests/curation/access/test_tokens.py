"""API tokens: created once, stored as hashes, expired and revoked."""

from __future__ import annotations

import hashlib

import pytest
import sqlalchemy as sa

from curation.access import tokens
from curation.access.scopes import Scope
from curation.db.tables import api_tokens, events
from curation.errors import Conflict, NotFound, Refused

DAY = 86_400


def create(database, name="loader", scopes=(Scope.snapshots_read,), seconds=DAY) -> str:
    with database.transaction() as tx:
        return tokens.create_token(tx, name, list(scopes), seconds, "ann")


def find(database, token):
    with database.transaction() as tx:
        return tokens.find_program(tx, token)


def test_a_token_names_its_program_and_its_scopes(database):
    token = create(database, scopes=tokens.TRAINER_SCOPES)
    program = find(database, token)
    assert (program.name, program.scopes) == ("token loader", set(tokens.TRAINER_SCOPES))
    for wrong in (token[:-1], token + "x", "", token.removeprefix(tokens.PREFIX)):
        assert find(database, wrong) is None


def test_only_the_hash_of_a_token_is_stored_and_logged(database):
    token = create(database)
    with database.transaction() as tx:
        stored = tx.execute(sa.select(api_tokens)).mappings().one()
        logged = tx.execute(sa.select(events)).mappings().all()
        listed = tokens.list_tokens(tx)
    assert stored["hash"] == hashlib.sha256(token.encode()).hexdigest()
    secret = token.removeprefix(tokens.PREFIX)
    assert len(secret) >= 43, "256 bits"
    assert secret not in str((dict(stored), [dict(row) for row in logged], listed))
    assert stored["hash"] not in str(listed)
    assert [row["kind"] for row in logged] == ["token created"]


def test_an_expired_or_revoked_token_is_no_program(database):
    token, other = create(database), create(database, "other")
    with database.transaction() as tx:
        tx.execute(
            sa.update(api_tokens)
            .where(api_tokens.c.name == "other")
            .values(expires_at=sa.func.now())
        )
        tokens.revoke_token(tx, "loader", "ann")
    assert (find(database, token), find(database, other)) == (None, None)
    with database.transaction() as tx:
        assert [row["state"] for row in tokens.list_tokens(tx)] == ["expired", "revoked"]
        with pytest.raises(NotFound, match="no active token"):
            tokens.revoke_token(tx, "loader", "ann")


def test_a_name_is_free_again_after_it_was_revoked(database):
    create(database)
    with pytest.raises(Conflict, match="already"):
        create(database)
    with database.transaction() as tx:
        tokens.revoke_token(tx, "loader", "ann")
    assert find(database, create(database)) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": " "},
        {"name": "x" * 101},
        {"scopes": ()},
        {"seconds": 0},
        {"seconds": 367 * DAY},
    ],
)
def test_invalid_tokens_are_refused(database, wrong):
    with pytest.raises(Refused):
        create(database, **wrong)


def test_the_last_use_is_recorded_at_intervals(database):
    token = create(database)
    program = find(database, token)
    assert program.use_is_due
    with database.transaction() as tx:
        tokens.record_use(tx, program)
    assert not find(database, token).use_is_due
    with database.transaction() as tx:
        assert tokens.list_tokens(tx)[0]["last_used_at"] is not None
