"""Reviewers sign in once per token, and a deactivated reviewer is signed out."""

from __future__ import annotations

import hashlib
import threading
import uuid

import pytest
import sqlalchemy as sa

from curation.db import leases
from curation.db.tables import sign_in_tokens
from curation.domain import CandidateState, Role
from curation.errors import Conflict, NotFound, Refused
from curation.review import reviewers
from curation.review.reviewers import SignInThrottle, TooManyAttemptsError
from tests.support.factories import make_candidates, make_round, states


def test_adding_twice_is_adding_once(database):
    with database.transaction() as tx:
        first = reviewers.add_reviewer(tx, " ann ", Role.engineer)
        assert first == reviewers.add_reviewer(tx, "ann", Role.engineer)
        assert (first.name, first.kind, first.role, first.active) == (
            "ann",
            "person",
            Role.engineer,
            True,
        )
        with pytest.raises(Conflict, match="already"):
            reviewers.add_reviewer(tx, "ann", Role.admin)
        with pytest.raises(Refused, match="1 to 100"):
            reviewers.add_reviewer(tx, "  ")
        with pytest.raises(NotFound, match="bob"):
            reviewers.find_reviewer(tx, "bob")
        assert reviewers.get_reviewer(tx, first.id) == first
        assert reviewers.get_reviewer(tx, 10**6) is None
        assert reviewers.add_rule_reviewer(tx) == reviewers.add_rule_reviewer(tx)
        assert [(one.name, one.kind) for one in reviewers.list_reviewers(tx)] == [
            ("ann", "person"),
            ("rule_reviewer", "rule_reviewer"),
        ]


def test_a_token_works_once_and_only_its_hash_is_stored(database):
    with database.transaction() as tx:
        ann = reviewers.add_reviewer(tx, "ann")
        token = reviewers.issue_token(tx, ann, 5)
        kept = tx.execute(sa.select(sign_in_tokens)).mappings().one()
    assert kept["hash"] == hashlib.sha256(token.encode()).hexdigest()
    assert token not in str(dict(kept))
    assert len(token) >= 43, "256 bits"
    with database.transaction() as tx:
        assert reviewers.sign_in(tx, token) == ann
    for wrong in (token, token[:-1], "", token + "x", kept["hash"]):
        with database.transaction() as tx, pytest.raises(Refused, match="not valid"):
            reviewers.sign_in(tx, wrong)


def test_one_of_many_requests_with_one_token_wins(database):
    with database.transaction() as tx:
        token = reviewers.issue_token(tx, reviewers.add_reviewer(tx, "ann"), 5)
    outcomes: list[str] = []
    barrier = threading.Barrier(6)

    def try_it() -> None:
        barrier.wait()
        try:
            with database.transaction() as tx:
                outcomes.append(reviewers.sign_in(tx, token).name)
        except Refused:
            outcomes.append("refused")

    threads = [threading.Thread(target=try_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["ann"] + ["refused"] * 5


def test_expired_tokens_and_those_of_deactivated_reviewers_are_refused(database):
    with database.transaction() as tx:
        ann, bob = reviewers.add_reviewer(tx, "ann"), reviewers.add_reviewer(tx, "bob")
        old, gone = reviewers.issue_token(tx, ann, 0), reviewers.issue_token(tx, bob, 5)
        reviewers.deactivate(tx, bob)
    for token in (old, gone):
        with database.transaction() as tx, pytest.raises(Refused, match="not valid"):
            reviewers.sign_in(tx, token)
    with database.transaction() as tx:
        rule_reviewer = reviewers.get_reviewer(tx, reviewers.add_rule_reviewer(tx))
        for nobody in (rule_reviewer, reviewers.find_reviewer(tx, "bob")):
            with pytest.raises(Refused, match="cannot sign in"):
                reviewers.issue_token(tx, nobody, 5)


def test_candidates_of_a_deactivated_reviewer_wait_again(database, store):
    with database.transaction() as tx:
        ann = reviewers.add_reviewer(tx, "ann")
        round_id = make_round(tx)
        ids = make_candidates(tx, store, round_id, 2, CandidateState.showing)
        leases.claim(tx, ids, "review", ann.holder, 60)
        reviewers.deactivate(tx, ann)
    assert states(database, round_id) == {"waiting": 2}


def test_wrong_tokens_are_rate_limited():
    now = [0.0]
    back_off = SignInThrottle(clock=lambda: now[0])
    for _ in range(3):
        back_off.failed("a")
    waits = []
    for _ in range(9):
        with pytest.raises(TooManyAttemptsError) as raised:
            back_off.failed("a")
        waits.append(raised.value.seconds)
        now[0] += waits[-1]
        back_off.failed("a")
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    back_off.failed("b")
    back_off.succeeded("a")
    back_off.failed("a")


def test_back_off_remembers_a_bounded_number_of_addresses():
    back_off = SignInThrottle(clock=lambda: 0.0)
    back_off.REMEMBERED = 5
    for address in range(50):
        for _ in range(3):
            back_off.failed(str(address))
    back_off.failed("0")
    with pytest.raises(TooManyAttemptsError):
        back_off.failed("49")
    assert len(back_off._wrong) == 5


def test_an_unknown_token_is_refused_in_the_same_words(database):
    with database.transaction() as tx, pytest.raises(Refused) as raised:
        reviewers.sign_in(tx, uuid.uuid4().hex)
    assert raised.value.message == "this sign-in token is not valid"
