"""Several blind verdicts become one: by majority, by estimated skills, or by an adjudicator."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import aggregations, candidates, reviewers, samples
from curation.db.tables import decisions as decisions_table
from curation.db.tables import leases as leases_table
from curation.domain import CandidateState, Job, Role, RuleVerdict, Verdict
from curation.errors import Conflict, Refused
from curation.quality import aggregation
from curation.review import decisions
from curation.review.consensus import (
    ConsensusRule,
    ConsensusSettings,
    rounds_needing_skill_estimates,
    set_consensus,
)
from curation.review.queue import claim_batch
from curation.review.reviewers import add_reviewer, add_rule_reviewer
from curation.rounds import lifecycle
from tests.support.factories import make_candidates, make_round, states

ACCEPT, REJECT, SKIP = Verdict.accept, Verdict.reject, Verdict.skip


@dataclass
class Panel:
    """A round that several decide, with its candidates and people by name."""

    database: Database
    round_id: int
    ids: list[uuid.UUID]
    people: dict[str, int] = field(default_factory=dict)

    def who(self, name: str, role: Role = Role.annotator) -> int:
        if name not in self.people:
            with self.database.transaction() as tx:
                self.people[name] = add_reviewer(tx, name, role).id
        return self.people[name]

    def take(
        self, name: str, count: int = 8, holding: tuple[uuid.UUID, ...] = ()
    ) -> list[uuid.UUID]:
        with self.database.transaction() as tx:
            return [
                item.id
                for item in claim_batch(tx, self.who(name), self.round_id, count, holding, 60).items
            ]

    def decide(self, name: str, candidate: uuid.UUID, verdict: Verdict = ACCEPT, **more):
        with self.database.transaction() as tx:
            return decisions.decide(
                tx, self.who(name), candidate, verdict, **{"key": uuid.uuid4(), **more}
            )

    def undo(self, name: str, decision: int | None = None):
        with self.database.transaction() as tx:
            return decisions.undo(tx, self.who(name), decision, key=uuid.uuid4(), seconds=60)

    def row(self, candidate: uuid.UUID) -> tuple[str, int]:
        with self.database.transaction() as tx:
            return tuple(
                tx.execute(
                    sa.select(candidates.c.state, candidates.c.decided).where(
                        candidates.c.id == candidate
                    )
                ).one()
            )

    def sampled(self) -> set[uuid.UUID]:
        with self.database.transaction() as tx:
            standing = sa.select(samples.c.candidate_id).where(samples.c.withdrawn_at.is_(None))
            return set(tx.execute(standing).scalars())


@pytest.fixture
def open_panel(database, store):
    def open_(consensus: ConsensusSettings, count: int = 3) -> Panel:
        with database.transaction() as tx:
            round_id = make_round(tx)
            set_consensus(tx, round_id, consensus, "test")
            return Panel(database, round_id, list(make_candidates(tx, store, round_id, count)))

    return open_


def majority(overlap: int = 3, **more) -> ConsensusSettings:
    return ConsensusSettings(ConsensusRule.majority, overlap, **more)


def test_consensus_is_reached_by_enough_equal_verdicts(open_panel):
    panel = open_panel(majority())
    one = panel.ids[0]
    for name in ("ann", "bob"):
        assert one in panel.take(name)
        assert panel.decide(name, one).state == "accepted", (
            "what this verdict says by itself: the others' stay unseen"
        )
    assert panel.row(one) == ("waiting", 2)
    assert panel.sampled() == set()
    panel.decide("cy", one, REJECT)
    assert panel.row(one) == ("accepted", 3)
    assert panel.sampled() == {one}
    with pytest.raises(Conflict, match="already decided"):
        panel.decide("dan", one)


def test_no_reviewer_gets_a_candidate_twice(open_panel):
    panel = open_panel(majority(2))
    one, two, three = panel.ids
    assert set(panel.take("ann")) == {one, two, three}
    panel.decide("ann", one)
    assert panel.take("ann", holding=(two, three)) == [], (
        "the others are held, the first is decided"
    )
    with pytest.raises(Conflict, match="you have already decided"):
        panel.decide("ann", one)
    assert panel.take("bob") == [one], "begun by somebody else"
    with panel.database.transaction() as tx:
        tx.execute(
            sa.update(leases_table).values(expires_at=sa.text("now() - interval '1 minute'"))
        )
        leases.expire(tx)
    with panel.database.transaction() as tx:
        batch = claim_batch(tx, panel.who("ann"), panel.round_id, 0, (one, two), 60)
    assert batch.lost == (one,), "swept, and not to be looked at again by who has decided it"


def test_partly_decided_candidates_come_before_undecided_ones(open_panel):
    panel = open_panel(majority(2), count=6)
    first = panel.take("ann", 2)
    for one in first:
        panel.decide("ann", one)
    assert set(panel.take("bob", 2)) == set(first)


def test_partly_decided_candidates_beyond_the_scan_limit_come_after_undecided_ones(
    open_panel, monkeypatch
):
    monkeypatch.setattr("curation.review.queue.SCAN_LIMIT", 2)
    panel = open_panel(majority(2), count=6)
    shown = panel.take("ann", 5)
    for one in shown:
        panel.decide("ann", one)
    (last,) = panel.take("bob", 6)[-1:]
    assert set(panel.take("bob", 6)) == set(panel.ids), (
        "two begun, the fresh one, and the three beyond"
    )
    assert last in panel.ids


def test_a_tie_goes_to_an_adjudicator_who_has_not_decided_it(open_panel):
    panel = open_panel(majority(2))
    one = panel.ids[0]
    panel.who("eve", Role.engineer)
    panel.who("fay", Role.engineer)
    panel.decide("ann", one)
    panel.decide("eve", one, REJECT)
    assert panel.row(one) == ("waiting", 2)
    assert one not in panel.take("bob"), "an annotator settles nothing"
    assert one not in panel.take("eve"), "she is one of those who disagree"
    with pytest.raises(Conflict, match="already decided"):
        panel.decide("bob", one)
    with panel.database.transaction() as tx:
        leases.release_holder(tx, f"reviewer {panel.who('bob')}")
        leases.release_holder(tx, f"reviewer {panel.who('eve')}")
    assert one in panel.take("fay")
    final = panel.decide("fay", one)
    assert panel.row(one) == ("accepted", 2)
    with panel.database.transaction() as tx:
        rows = (
            tx.execute(sa.select(decisions_table.c.final).order_by(decisions_table.c.id))
            .scalars()
            .all()
        )
    assert rows == [False, False, True]
    with pytest.raises(Conflict, match="final decision"):
        panel.undo("ann")
    assert panel.undo("fay", final.decision).item.id == one
    assert panel.row(one) == ("showing", 2)
    panel.decide("fay", one, REJECT)
    assert panel.row(one) == ("rejected", 2)
    assert panel.sampled() == set()


def test_certainty_1_requires_that_all_agree(open_panel):
    panel = open_panel(majority(3, certainty=1.0))
    one, two, _ = panel.ids
    for name, verdict in (("ann", ACCEPT), ("bob", ACCEPT), ("cy", REJECT)):
        panel.decide(name, one, verdict)
        panel.decide(name, two, REJECT)
    assert panel.row(one) == ("waiting", 3)
    assert panel.row(two) == ("rejected", 3)


def test_undoing_one_of_several_verdicts_reopens_the_candidate(open_panel):
    panel = open_panel(majority(3))
    one = panel.ids[0]
    decided = {name: panel.decide(name, one).decision for name in ("ann", "bob", "cy")}
    assert panel.sampled() == {one}
    assert panel.undo("ann", decided["ann"]).item.id == one
    assert panel.row(one) == ("showing", 2)
    assert panel.sampled() == set()
    with pytest.raises(Conflict, match="another reviewer"):
        panel.decide("dan", one)
    panel.decide("ann", one, REJECT)
    assert panel.row(one) == ("accepted", 3), "two still accept it"


def test_a_verdict_can_be_undone_while_another_reviewer_has_the_candidate(open_panel):
    panel = open_panel(majority(2), count=1)
    (one,) = panel.take("ann")
    panel.decide("ann", one)
    assert panel.take("bob") == [one]
    assert panel.undo("ann").item.id == one
    assert panel.row(one) == ("showing", 0)
    with panel.database.transaction() as tx:
        assert claim_batch(tx, panel.who("bob"), panel.round_id, 0, (one,), 60).lost == (one,)
    panel.decide("ann", one, REJECT)
    assert panel.take("bob") == [one]


def test_a_skip_is_no_verdict(open_panel):
    panel = open_panel(majority(2), count=1)
    (one,) = panel.ids
    panel.decide("ann", one, SKIP)
    assert panel.row(one) == ("waiting", 0)
    panel.decide("bob", one)
    panel.decide("cy", one, REJECT)
    with pytest.raises(Conflict, match="has changed since"):
        panel.undo("ann")


def test_the_rule_reviewer_decides_alone_unless_it_counts_as_one_vote(open_panel):
    alone, voice = open_panel(majority(2)), open_panel(majority(2, rule_reviewer_votes=True))
    for panel, state in ((alone, "rejected"), (voice, "waiting")):
        panel.decide("ann", panel.ids[0])
        with panel.database.transaction() as tx:
            rule_reviewer = add_rule_reviewer(tx)
            item = next(
                item
                for item in decisions.claim_items(tx, rule_reviewer, panel.round_id, 8, (), 60)
                if item.id == panel.ids[0]
            )
            decisions.record_rule_verdict(
                tx, rule_reviewer, item, RuleVerdict(REJECT, (), "a halo")
            )
        assert panel.row(panel.ids[0])[0] == state
        with panel.database.transaction() as tx:
            tx.execute(sa.update(reviewers).values(name=sa.func.md5(reviewers.c.name)))


def test_skill_estimates_decide_where_a_majority_does_not(open_panel):
    """Ann and Bob are always right and Cy is random: by estimated skills, two against one is certain."""
    panel = open_panel(ConsensusSettings(ConsensusRule.dawid_skene, 3, certainty=0.9), count=30)
    requested: list[Job] = []
    panel.database.send = requested.append
    truth = {one: index % 2 == 0 for index, one in enumerate(panel.ids)}
    for index, one in enumerate(panel.ids):
        right = ACCEPT if truth[one] else REJECT
        panel.decide("ann", one, right)
        panel.decide("bob", one, right)
        panel.decide("cy", one, right if index % 3 else (REJECT if truth[one] else ACCEPT))
    assert Job("aggregate", (panel.round_id,)) in requested
    assert states(panel.database, panel.round_id) == {"accepted": 10, "rejected": 10, "waiting": 10}
    with panel.database.transaction() as tx:
        assert rounds_needing_skill_estimates(tx) == [panel.round_id], (
            "the sweep asks again, should the job be lost"
        )
    with panel.database.transaction() as tx:
        assert aggregation.resolve_waiting(tx, panel.round_id) == 10
        assert rounds_needing_skill_estimates(tx) == []
        assert tx.scalar(sa.select(aggregations.c.votes)) == 90
    assert states(panel.database, panel.round_id) == {"accepted": 15, "rejected": 15}
    assert panel.sampled() == {one for one in panel.ids if truth[one]}


def test_changed_verdicts_are_listed_first_and_logged_when_applied(open_panel):
    """Three careless reviewers sometimes outvote two careful ones; skill estimates detect it."""
    panel = open_panel(majority(5), count=25)
    wrong = {"ann": (), "bob": (), "cy": (0, 1), "dan": (1, 2), "eve": (1, 3)}
    for index, one in enumerate(panel.ids):
        right, other = (ACCEPT, REJECT) if index % 2 else (REJECT, ACCEPT)
        for name, when in wrong.items():
            panel.decide(name, one, other if index % 5 in when else right)
    before = states(panel.database, panel.round_id)
    with panel.database.transaction() as tx:
        changes = aggregation.find_verdict_changes(tx, panel.round_id, certainty=0.9)
    assert states(panel.database, panel.round_id) == before, "a dry run"
    assert {skill["reviewer"] for skill in changes["skills"]} == set(wrong)
    assert changes["decided"] == 25
    assert {flip["candidate"] for flip in changes["flips"]} == {
        one for index, one in enumerate(panel.ids) if index % 5 == 1
    }
    for flip in changes["flips"]:
        assert flip["is"] != flip["would_be"]
        assert len(flip["votes"]) == 5
    with panel.database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(aggregations)) == 0, "dry indeed"
        done = aggregation.apply_verdict_changes(tx, panel.round_id)
        assert (done["flips"], done["turned"]) == (changes["flips"], len(changes["flips"]))
        assert aggregation.apply_verdict_changes(tx, panel.round_id)["turned"] == 0, "twice is once"
        rows = tx.execute(
            sa.select(decisions_table).where(decisions_table.c.channel == "consensus")
        ).all()
    assert len(rows) == len(changes["flips"])
    assert all(
        row.final and row.comment.startswith(f"aggregation {done['aggregation']}:") for row in rows
    )
    assert {row.candidate_id: row.verdict for row in rows} == {
        flip["candidate"]: "accept" if flip["would_be"] == "accepted" else "reject"
        for flip in changes["flips"]
    }
    with panel.database.transaction() as tx:
        accepted = set(
            tx.execute(
                sa.select(candidates.c.id).where(candidates.c.state == CandidateState.accepted)
            ).scalars()
        )
        again = aggregation.find_verdict_changes(tx, panel.round_id, certainty=0.9)
    assert panel.sampled() == accepted
    assert again["flips"] == []


def test_consensus_cannot_change_after_the_first_decision(open_panel):
    panel = open_panel(majority(2))
    panel.decide("ann", panel.ids[0])
    with pytest.raises(Conflict, match="already has decisions"), panel.database.transaction() as tx:
        set_consensus(tx, panel.round_id, ConsensusSettings(), "test")
    for wrong in (
        {"overlap": 2},
        {"rule": ConsensusRule.majority},
        {"rule": ConsensusRule.majority, "overlap": 99},
        {"certainty": 2},
    ):
        with pytest.raises(Refused):
            ConsensusSettings(**wrong)
    assert ConsensusSettings.read({}) == ConsensusSettings()


def test_closing_a_round_withdraws_candidates_without_consensus(open_panel):
    panel = open_panel(majority(2))
    one, two, _ = panel.ids
    for name in ("ann", "bob"):
        panel.decide(name, one)
    panel.decide("ann", two)
    with panel.database.transaction() as tx:
        assert lifecycle.close_round(tx, panel.round_id, "test") == 2
    with pytest.raises(Conflict, match="closed"):
        panel.undo("ann")
    assert panel.sampled() == {one}
