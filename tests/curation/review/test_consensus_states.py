"""Several reviewers and an adjudicator act in any order: verdicts, states, leases and samples stay consistent."""

from __future__ import annotations

import uuid

import hypothesis.strategies as st
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
from curation.db.tables import leases as leases_table
from curation.domain import Role, Verdict
from curation.errors import Conflict, NotFound
from curation.object_store import FolderStore
from curation.review import decisions
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.reviewers import add_reviewer
from tests.support.factories import make_candidates, make_round

PEOPLE = st.integers(0, 2)
ENGINEER = 2
COUNT, OVERLAP = 4, 2


class Deciding(RuleBasedStateMachine):
    """Two annotators and an engineer review a round; the model tracks votes, final decisions and leases."""

    database: Database
    store: FolderStore

    @initialize()
    def open(self) -> None:
        with self.database.transaction() as tx:
            tx.execute(sa.delete(leases_table))
            tx.execute(sa.text("update rounds set state = 'closed'"))
            self.round_id = make_round(tx)
            set_consensus(
                tx, self.round_id, ConsensusSettings(ConsensusRule.majority, OVERLAP), "test"
            )
            self.ids = sorted(make_candidates(tx, self.store, self.round_id, COUNT))
            access = (Role.annotator, Role.annotator, Role.engineer)
            self.people = [add_reviewer(tx, uuid.uuid4().hex, one).id for one in access]
        self.held: dict[uuid.UUID, int] = {}
        self.votes: dict[uuid.UUID, dict[int, bool]] = {one: {} for one in self.ids}
        self.final: dict[uuid.UUID, bool] = {}
        self.made: list[list[tuple[uuid.UUID, str]]] = [[], [], []]

    def verdict(self, one: uuid.UUID) -> bool | None:
        if one in self.final:
            return self.final[one]
        verdicts = set(self.votes[one].values())
        return verdicts.pop() if len(self.votes[one]) == OVERLAP and len(verdicts) == 1 else None

    def may_look(self, who: int, one: uuid.UUID) -> bool:
        full = len(self.votes[one]) >= OVERLAP
        return (
            self.verdict(one) is None
            and who not in self.votes[one]
            and (not full or who == ENGINEER)
        )

    @rule(who=PEOPLE, count=st.integers(1, 3))
    def take(self, who: int, count: int) -> None:
        own = [one for one, holder in self.held.items() if holder == who]
        with self.database.transaction() as tx:
            items = decisions.claim_items(tx, self.people[who], None, count, own, 60)
        free = [one for one in self.ids if one not in self.held and self.may_look(who, one)]
        assert len(items) == min(count, len(free))
        for item in items:
            assert item.id in free
            self.held[item.id] = who

    @rule(
        who=PEOPLE,
        index=st.integers(0, COUNT - 1),
        verdict=st.sampled_from(["accept", "reject", "skip"]),
    )
    def decide(self, who: int, index: int, verdict: str) -> None:
        one = self.ids[index]
        allowed = self.may_look(who, one) and self.held.get(one, who) == who
        try:
            with self.database.transaction() as tx:
                decision = decisions.decide(
                    tx, self.people[who], one, Verdict(verdict), key=uuid.uuid4()
                )
        except Conflict:
            assert not allowed
            return
        assert allowed
        assert (
            decision.state
            == {"accept": "accepted", "reject": "rejected", "skip": "waiting"}[verdict]
        ), "blind"
        self.held.pop(one, None)
        kind = "skip"
        if verdict != "skip":
            kind = "final" if len(self.votes[one]) == OVERLAP else "vote"
            if kind == "final":
                self.final[one] = verdict == "accept"
            else:
                self.votes[one][who] = verdict == "accept"
        self.made[who].append((one, kind))

    @rule(who=PEOPLE)
    def undo(self, who: int) -> None:
        one, kind = self.made[who][-1] if self.made[who] else (None, None)
        try:
            with self.database.transaction() as tx:
                undone = decisions.undo(tx, self.people[who], None, key=uuid.uuid4(), seconds=60)
        except NotFound:
            assert one is None
            return
        except Conflict:
            waits = (
                self.verdict(one) is None
                and one not in self.held
                and len(self.votes[one]) < OVERLAP
            )
            assert one in self.final if kind == "vote" else kind == "skip" and not waits
            return
        assert undone.item.id == one
        self.made[who].pop()
        if kind == "vote":
            del self.votes[one][who]
        elif kind == "final":
            del self.final[one]
        self.held[one] = who

    @rule()
    def expire(self) -> None:
        with self.database.transaction() as tx:
            tx.execute(
                sa.update(leases_table).values(expires_at=sa.text("now() - interval '1 second'"))
            )
            leases.expire(tx)
        self.held.clear()

    @invariant()
    def the_records_agree(self) -> None:
        if not hasattr(self, "round_id"):
            return
        with self.database.transaction() as tx:
            own = candidates.c.round_id == self.round_id
            rows = tx.execute(
                sa.select(candidates.c.id, candidates.c.state, candidates.c.decided).where(own)
            ).all()
            leased = dict(
                tx.execute(sa.select(leases_table.c.subject, leases_table.c.holder)).all()
            )
            standing = (samples.c.withdrawn_at.is_(None)) & (samples.c.round == self.round_id)
            sampled = set(tx.execute(sa.select(samples.c.candidate_id).where(standing)).scalars())
        assert {row.id: (row.state, row.decided) for row in rows} == {
            one: (self.state_of(one), len(self.votes[one])) for one in self.ids
        }
        assert leased == {one: f"reviewer {self.people[who]}" for one, who in self.held.items()}
        assert sampled == {one for one in self.ids if self.verdict(one) is True}

    def state_of(self, one: uuid.UUID) -> str:
        verdict = self.verdict(one)
        if verdict is not None:
            return "accepted" if verdict else "rejected"
        return "showing" if one in self.held else "waiting"


def test_any_order_of_verdicts_keeps_the_records_consistent(database, store):
    Deciding.database, Deciding.store = database, store
    few = settings(
        max_examples=20,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Deciding, settings=few)
