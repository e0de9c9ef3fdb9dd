"""Sessions: signed cookies, rows that end at once, and cookie names that differ between instances."""

from __future__ import annotations

import itsdangerous.timed
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from curation.db.tables import sessions
from curation.errors import Refused
from curation.review import reviewers
from curation.review.sessions import (
    SessionCookies,
    begin_session,
    cookie_name,
    end_session,
    end_sessions,
)


@pytest.fixture
def ann(database):
    with database.transaction() as tx:
        return reviewers.add_reviewer(tx, "ann")


def begin(database, reviewer, seconds: int = 60) -> str:
    with database.transaction() as tx:
        return begin_session(tx, reviewer.id, seconds)


def found(database, token: str):
    with database.transaction() as tx:
        return reviewers.find_session(tx, token)


def test_a_cookie_is_signed_and_expires(monkeypatch):
    cookies = SessionCookies("secret", 12)
    cookie = cookies.dumps("token")
    assert cookies.open(cookie) == "token"
    assert SessionCookies("other", 12).open(cookie) is None
    head, _, signature = cookie.rpartition(
        "."
    )  # the last letter of base64 has bits to spare, the first has none
    assert cookies.open(f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}") is None
    real = itsdangerous.timed.time.time
    monkeypatch.setattr(itsdangerous.timed.time, "time", lambda: real() + 12 * 3600 + 2)
    assert cookies.open(cookie) is None


def test_a_cookie_of_an_older_version_is_no_session():
    cookies = SessionCookies("secret", 12)
    assert cookies.open(str(cookies._signer.dumps(7))) is None


@given(st.text())
def test_no_text_opens_a_session(text):
    assert SessionCookies("secret", 12).open(text) is None


def test_cookie_names_differ_between_instances():
    assert cookie_name("one") == cookie_name("one") != cookie_name("two")
    assert "one" not in cookie_name("one")


def test_only_the_hash_of_a_session_is_stored(database, ann):
    token = begin(database, ann)
    with database.transaction() as tx:
        [row] = tx.execute(sa.select(sessions)).mappings().all()
    assert token not in str(dict(row))
    assert found(database, token) == ann
    assert found(database, row["hash"]) is None


def test_one_session_ends_and_the_others_stay(database, ann):
    first, second = begin(database, ann), begin(database, ann)
    with database.transaction() as tx:
        end_session(tx, first)
        end_session(tx, "unknown")
    assert (found(database, first), found(database, second)) == (None, ann)


def test_a_session_expires(database, ann):
    assert found(database, begin(database, ann, seconds=0)) is None


def test_ending_all_sessions_voids_unused_tokens_too(database, ann):
    with database.transaction() as tx:
        bob = reviewers.add_reviewer(tx, "bob")
        unused = reviewers.issue_token(tx, ann, 5)
    own, other = [begin(database, ann), begin(database, ann)], begin(database, bob)
    with database.transaction() as tx:
        end_sessions(tx, ann.id)
    assert [found(database, token) for token in own] == [None, None]
    assert found(database, other) == bob
    with database.transaction() as tx, pytest.raises(Refused, match="not valid"):
        reviewers.sign_in(tx, unused)


def test_reactivation_brings_no_old_session_back(database, ann):
    session = begin(database, ann)
    with database.transaction() as tx:
        token = reviewers.issue_token(tx, ann, 5)
        reviewers.deactivate(tx, ann)
    assert found(database, session) is None
    with database.transaction() as tx:
        reviewers.reactivate(tx, reviewers.find_reviewer(tx, "ann"))
    assert found(database, session) is None
    with database.transaction() as tx, pytest.raises(Refused, match="not valid"):
        reviewers.sign_in(tx, token)
    assert found(database, begin(database, ann)) == ann


def test_ended_sessions_are_removed_at_the_next_sign_in(database, ann):
    for _ in range(5):
        token = begin(database, ann)
        with database.transaction() as tx:
            end_session(tx, token)
    begin(database, ann)
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(sessions)) == 1
