"""Reviewers, lease expiry and engineers act in any order: state transitions hold and the records stay consistent."""

from __future__ import annotations

import uuid

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import candidates, samples
from curation.db.tables import decisions as decisions_table
from curation.db.tables import leases as leases_table
from curation.domain import STATE_TRANSITIONS, CandidateState, Verdict
from curation.errors import Conflict, NotFound
from curation.object_store import FolderStore
from curation.review import decisions
from curation.review.reviewers import add_reviewer
from curation.rounds import lifecycle
from tests.support.factories import make_candidates, make_round

PEOPLE = st.integers(0, 1)
COUNT = 5


class Reviewing(RuleBasedStateMachine):
    """Two reviewers review a round; the model tracks leases and standing decisions."""

    database: Database
    store: FolderStore

    @initialize()
    def open(self) -> None:
        with self.database.transaction() as tx:
            tx.execute(sa.delete(leases_table))  # of the example before: its round is history
            tx.execute(sa.text("update rounds set state = 'closed'"))
            self.round_id = make_round(tx)
            make_candidates(tx, self.store, self.round_id, COUNT)
            self.people = [add_reviewer(tx, uuid.uuid4().hex).id for _ in range(2)]
        self.held: dict[uuid.UUID, int] = {}
        self.standing: dict[uuid.UUID, tuple[int, Verdict]] = {}
        self.made: list[list[tuple[int, uuid.UUID, Verdict]]] = [[], []]
        self.closed = False

    @rule(who=PEOPLE, count=st.integers(1, 3))
    def take(self, who: int, count: int) -> None:
        own = [one for one, holder in self.held.items() if holder == who]
        with self.database.transaction() as tx:
            items = decisions.claim_items(tx, self.people[who], None, count, own, 60)
        free = COUNT - len(self.held) - len(self.standing)
        assert len(items) == (0 if self.closed else min(count, free))
        for item in items:
            assert item.id not in self.held
            self.held[item.id] = who

    @rule(
        who=PEOPLE,
        index=st.integers(0, COUNT - 1),
        verdict=st.sampled_from([Verdict.accept, Verdict.reject, Verdict.skip]),
        twice=st.booleans(),
    )
    def decide(self, who: int, index: int, verdict: Verdict, twice: bool) -> None:
        one = sorted(self.ids())[index]
        key = uuid.uuid4()
        allowed = not self.closed and one not in self.standing and self.held.get(one, who) == who
        for _ in range(1 + twice):
            try:
                with self.database.transaction() as tx:
                    decided = decisions.decide(tx, self.people[who], one, verdict, key=key)
            except Conflict:
                assert not allowed
                return
            assert allowed
        self.held.pop(one, None)
        self.made[who].append((decided.decision, one, verdict))
        if verdict is not Verdict.skip:
            self.standing[one] = (who, verdict)

    @rule(who=PEOPLE)
    def undo(self, who: int) -> None:
        try:
            with self.database.transaction() as tx:
                undone = decisions.undo(tx, self.people[who], None, key=uuid.uuid4(), seconds=60)
        except NotFound:
            assert not self.made[who]
            return
        except Conflict:
            _, one, verdict = self.made[who][-1]
            assert self.closed or (
                verdict is Verdict.skip and (one in self.held or one in self.standing)
            )
            return
        _, one, _ = self.made[who].pop()
        assert undone.item.id == one
        self.standing.pop(one, None)
        self.held[one] = who

    @rule()
    def expire(self) -> None:
        with self.database.transaction() as tx:
            tx.execute(
                sa.update(leases_table).values(expires_at=sa.text("now() - interval '1 second'"))
            )
            leases.expire(tx)
        self.held.clear()

    @rule(who=PEOPLE)
    def leave(self, who: int) -> None:
        with self.database.transaction() as tx:
            leases.release_holder(tx, f"reviewer {self.people[who]}")
        self.held = {one: holder for one, holder in self.held.items() if holder != who}

    @rule()
    def close(self) -> None:
        with self.database.transaction() as tx:
            lifecycle.close_round(tx, self.round_id, "test")
        self.held.clear()
        self.closed = True

    @invariant()
    def the_records_agree(self) -> None:
        if not hasattr(self, "round_id"):
            return
        with self.database.transaction() as tx:
            states = dict(
                tx.execute(
                    sa.select(candidates.c.id, candidates.c.state).where(
                        candidates.c.round_id == self.round_id
                    )
                ).all()
            )
            leased = dict(
                tx.execute(sa.select(leases_table.c.subject, leases_table.c.holder)).all()
            )
            query = sa.select(samples.c.candidate_id).where(
                samples.c.withdrawn_at.is_(None), samples.c.round == self.round_id
            )
            sampled = set(tx.execute(query).scalars())
        expected = {one: self.state_of(one) for one in states}
        assert states == expected
        assert leased == {one: f"reviewer {self.people[who]}" for one, who in self.held.items()}
        assert sampled == {
            one for one, (_, verdict) in self.standing.items() if verdict is Verdict.accept
        }

    def state_of(self, one: uuid.UUID) -> str:
        if one in self.standing:
            return {"accept": "accepted", "reject": "rejected"}[self.standing[one][1]]
        if one in self.held:
            return "showing"
        return "withdrawn" if self.closed else "waiting"

    def ids(self) -> list[uuid.UUID]:
        with self.database.transaction() as tx:
            return list(
                tx.execute(
                    sa.select(candidates.c.id).where(candidates.c.round_id == self.round_id)
                ).scalars()
            )


def test_any_order_of_events_keeps_the_records_consistent(database, store):
    Reviewing.database, Reviewing.store = database, store
    few = settings(
        max_examples=15,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Reviewing, settings=few)
    with database.transaction() as tx:
        kept = tx.execute(
            sa.select(sa.func.count(), sa.func.count(decisions_table.c.key.distinct()))
        ).one()
    assert kept[0] == kept[1] > 0


@pytest.mark.parametrize("source", list(CandidateState))
def test_the_database_enforces_the_state_transitions(database, source):
    """Each of the 12 x 12 moves is allowed exactly where STATE_TRANSITIONS allows it."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        tx.execute(
            sa.text(
                "insert into prompts (id, text) values ('00000000-0000-0000-0000-000000000001', 'p')"
            )
        )
        for index, target in enumerate(CandidateState):
            row = {
                "id": uuid.UUID(int=index + 1),
                "round_id": round_id,
                "prompt_id": uuid.UUID(int=1),
                "seed": index,
                "state": source,
            }
            tx.execute(sa.insert(candidates), row)
            allowed = (source, target) in STATE_TRANSITIONS or source == target
            move = sa.update(candidates).where(candidates.c.id == row["id"]).values(state=target)
            refused = None
            try:
                with tx.connection.begin_nested():
                    tx.execute(move)
            except sa.exc.IntegrityError as error:
                refused = str(error)
            if allowed:
                assert refused is None, (source, target)
            else:
                assert f"may not go from {source} to {target}" in str(refused)
