"""Decided candidates in snapshots: complete, by the query, without reviewers, and never lost."""

from __future__ import annotations

import json
import random
import uuid

import pytest
import sqlalchemy as sa

from curation.datasets import snapshots
from curation.datasets.decision_records import DecisionRecord, read_decisions
from curation.datasets.freeze_query import ALL_SAMPLES, FreezeQuery
from curation.datasets.licences import LicencePolicy
from curation.datasets.manifest import read_manifest, snapshot_objects
from curation.datasets.named_objects import manifest_objects, named_objects
from curation.db.tables import candidate_layers, candidates, generation_settings, rounds, samples
from curation.domain import Kind, LayerRole, RejectReason, Role, Verdict
from curation.errors import Conflict
from curation.exports.diff import compare_snapshots
from curation.exports.verify import verify_snapshot
from curation.review.consensus import make_consensus, set_consensus
from curation.review.decisions import decide
from curation.review.frozen_decisions import find_decided
from curation.review.reviewers import add_reviewer, add_rule_reviewer
from curation.review.undo import undo
from curation.selection.auto_reviewer import decide_all
from tests.support.factories import make_candidates, make_pairs, make_round, scenes
from tests.support.snapshots import assume_whole

NAMES = ("Anna Åström", "Bernd", "Chloé the third")


class Decided:
    """A round of twelve, decided by one person; a round of five pairs, decided by three people."""

    def __init__(self, database, store):
        self.database, self.store = database, store
        with database.transaction() as tx:
            self.people = [add_reviewer(tx, name, Role.engineer).id for name in NAMES]
            self.single, self.pair = make_round(tx), make_round(tx, kind="pair")
            self.ids = make_candidates(tx, store, self.single, 12)
            self.pairs = make_pairs(tx, store, self.pair, scenes(5))
            tx.execute(
                sa.update(candidates)
                .where(candidates.c.id.in_(self.ids[:6]))
                .values(propensity=0.25)
            )
            set_consensus(tx, self.pair, make_consensus(3, None, None), "test")
        for number, candidate in enumerate(self.ids[:10]):
            self.decide(0, candidate, accept=number % 3 == 0, reasons=[RejectReason.halo])
        # Pairs: accepted 3:0, rejected 0:3, accepted 2:1, rejected 1:2, and one without verdicts.
        for candidate, accepts in zip(self.pairs, (3, 0, 2, 1), strict=False):
            for place in range(3):
                self.decide(
                    place, candidate, accept=place < accepts, reasons=[RejectReason.clash],
                    layers=[LayerRole.background],
                )  # fmt: skip

    def decide(self, person, candidate, *, accept, reasons=(), layers=()):
        with self.database.transaction() as tx:
            return decide(
                tx, self.people[person], candidate, Verdict.accept if accept else Verdict.reject,
                key=uuid.uuid4(), reasons=() if accept else reasons,
                layers=() if accept else layers, comment=f"by {NAMES[person]}", dwell_ms=777_123,
            )  # fmt: skip

    def freeze(self, query=ALL_SAMPLES, *, rejects=True, **options):
        return snapshots.freeze_snapshot(
            self.database, self.store, tag=None, actor="test", query=query,
            find_decided=find_decided if rejects else None, **options,
        )  # fmt: skip

    def records(self, query=ALL_SAMPLES, **options):
        found = read_decisions(self.store, self.freeze(query).id, **options)
        return {uuid.UUID(one.candidate): one for one in found}


@pytest.fixture
def decided(database, store):
    return Decided(database, store)


def test_every_decided_candidate_is_there_with_what_training_needs(decided):
    records = decided.records()
    assert set(records) == {*decided.ids[:10], *decided.pairs[:4]}
    assert list(records) == sorted(records)
    with decided.database.transaction() as tx:
        owners = dict(map(tuple, tx.execute(sa.select(samples.c.candidate_id, samples.c.id))))
        checkpoints = dict(map(tuple, tx.execute(sa.select(rounds.c.id, rounds.c.checkpoint_id))))
    for number, candidate in enumerate(decided.ids[:10]):
        one, accepted = records[candidate], number % 3 == 0
        assert (one.kind, one.round, one.seed) == (Kind.single, decided.single, number)
        assert one.prompt == f"prompt {number} of round {decided.single}"
        assert one.checkpoint == checkpoints[decided.single]
        assert one.verdict == (Verdict.accept if accepted else Verdict.reject)
        assert (one.accepts, one.rejects, one.automatic) == (accepted, not accepted, False)
        assert one.propensity == (0.25 if number < 6 else 1.0)
        assert one.sample == (owners[candidate].hex if accepted else "")
        reasons = [] if accepted else [(RejectReason.halo, None, 1)]
        assert [(r.reason, r.layer, r.count) for r in one.reasons] == reasons
        assert (one.posterior > 0.5) == accepted
        assert decided.store.has(one.layers[LayerRole.foreground])
    strong, mixed = (records[decided.pairs[place]] for place in (0, 2))
    assert (mixed.accepts, mixed.rejects, mixed.verdict) == (2, 1, Verdict.accept)
    assert 0.5 < mixed.posterior <= strong.posterior <= 1
    assert [(r.reason, r.layer, r.count) for r in mixed.reasons] == [
        (RejectReason.clash, LayerRole.background, 1)
    ]
    assert set(strong.layers) == set(LayerRole)
    assert set(strong.texts) == {LayerRole.foreground, LayerRole.background}


def test_nothing_identifies_a_reviewer(decided):
    manifest = decided.freeze()
    text = b"".join(decided.store.get(part.sha256) for part in manifest.decisions.parts).decode()
    text += decided.store.get(manifest.id).decode()
    for secret in (*NAMES, *(json.dumps(name)[1:-1] for name in NAMES), "777123", "by Anna"):
        assert secret not in text
    allowed = {
        "candidate", "kind", "prompt", "texts", "round", "seed", "checkpoint", "layers", "verdict",
        "automatic", "accepts", "rejects", "posterior", "propensity", "reasons", "generation",
        "sample", "check",
    }  # fmt: skip
    rows = [json.loads(line) for line in text.split("\n") if '"candidate"' in line]
    assert len(rows) == 14
    assert all(set(row) == allowed for row in rows)


def test_a_snapshot_without_keeps_its_id_and_equal_decisions_have_one_name(decided):
    plain = decided.freeze(rejects=False)
    assert plain.decisions is None
    assert b"decisions" not in decided.store.get(plain.id)
    first, again = decided.freeze(), decided.freeze()
    assert first.id == again.id != plain.id
    assert first.parts == plain.parts, "the lines of samples keep their bytes"
    assert read_manifest(decided.store, first.id) == first
    with decided.database.transaction() as tx:
        rows = {row["id"]: row for row in snapshots.list_snapshots(tx)}
    assert rows[plain.id]["decisions"] is None
    assert rows[first.id]["decisions"]["verdict"] == {"accept": 6, "reject": 8}
    assert first.decisions.propensity == (0.25, 1.0)


def test_without_decided_candidates_the_id_is_that_of_the_samples(database, store):
    from tests.curation.datasets.test_samples import new_sample

    with database.transaction(repeatable_read=True) as tx:
        from curation.datasets.samples import add_samples

        add_samples(tx, [new_sample(1)])
        assume_whole(tx)
    options = {"tag": None, "actor": "test"}
    plain = snapshots.freeze_snapshot(database, store, **options)
    asked = snapshots.freeze_snapshot(database, store, **options, find_decided=find_decided)
    assert plain.id == asked.id


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"rounds": (1,)}, {"single": 10}),
        ({"kinds": (Kind.pair,)}, {"pair": 4}),
        ({"licences": ("MIT",)}, None),
        ({"sources": ("candidate *",)}, {"single": 10, "pair": 4}),
        ({"sources": ("elsewhere",)}, None),
        ({"reviewers": ("Bernd",)}, {"pair": 4}),
        ({"min_agreement": 0.9}, {"single": 10, "pair": 2}),
        ({"before": "2001-01-01"}, None),
        ({"before": "2999-01-01"}, {"single": 10, "pair": 4}),
        ({"signals": ("haze<0.1",)}, None),
        ({"per_prompt": 1}, {"single": 10, "pair": 4}),
    ],
    ids=str,
)
def test_the_query_holds_for_rejects_too(decided, query, expected):
    query = FreezeQuery(**query)
    with decided.database.transaction(repeatable_read=True) as tx:
        found = find_decided(tx, query)
        records = list(found.records)
    assert sum(found.by_checkpoint.values()) == len(records)
    kinds = [str(one.kind) for one in records]
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == (
        dict(sorted(expected.items())) if expected else {}
    )


def test_candidates_without_layers_are_left_out(decided):
    """As takedowns leave them."""
    with decided.database.transaction() as tx:
        gone = candidate_layers.c.candidate_id.in_(decided.ids[:2])
        tx.execute(sa.delete(candidate_layers).where(gone))
        found = find_decided(tx)
        ids = {uuid.UUID(record.candidate) for record in found.records}
    assert ids == {*decided.ids[2:10], *decided.pairs[:4]}
    assert sum(found.by_checkpoint.values()) == 12


def test_caps_hold_for_rejects_on_their_own(decided):
    with decided.database.transaction() as tx:
        prompt = tx.scalar(
            sa.select(candidates.c.prompt_id).where(candidates.c.id == decided.ids[0])
        )
        tx.execute(
            sa.update(candidates)
            .where(candidates.c.round_id == decided.single)
            .values(prompt_id=prompt)
        )
    records = decided.records(FreezeQuery(rounds=(decided.single,), per_prompt=2))
    rejected = sorted(decided.ids[n] for n in range(10) if n % 3)
    assert {id_ for id_, one in records.items() if one.verdict is Verdict.reject} == set(
        rejected[:2]
    )
    assert sum(one.verdict is Verdict.accept for one in records.values()) == 2


def test_licences_of_rejects_are_checked(decided):
    with pytest.raises(Conflict, match="not allowed"):
        decided.freeze(policy=LicencePolicy(("MIT",)))
    assert decided.freeze(policy=LicencePolicy(("generated",))).decisions.candidates == 14


def test_undone_withdrawn_automatic_and_adjudicated_verdicts(decided):
    with decided.database.transaction() as tx:
        # A reject is undone, the sample of an accept is withdrawn.
        undone = decided.ids[1]
        number = tx.connection.exec_driver_sql(
            "select id from decisions where candidate_id = %s", (str(undone),)
        ).scalar()
        undo(tx, decided.people[0], number, key=uuid.uuid4(), seconds=60)
        tx.execute(
            sa.update(samples)
            .where(samples.c.candidate_id == decided.ids[0])
            .values(withdrawn_at=sa.func.now())
        )
        # The rule reviewer rejects one, and the machine another that nobody saw.
        rules = add_rule_reviewer(tx)
        decide(
            tx, rules, decided.ids[10], Verdict.reject, key=uuid.uuid4(),
            reasons=[RejectReason.residue], channel="rule_reviewer",
        )  # fmt: skip
        [unseen] = make_candidates(tx, decided.store, decided.single, 1, "unshown", start=50)
        assert decide_all(tx, [unseen], Verdict.accept, "gate") == 1
        tx.execute(sa.insert(generation_settings), {"id": uuid.uuid4(), "settings": {
            "sampler": "ddim", "steps": "25", "noise": "4x8x8", "torch": "2.0"}})  # fmt: skip
        tx.execute(sa.update(candidates).values(
            settings_id=sa.select(generation_settings.c.id).scalar_subquery()))  # fmt: skip
    records = decided.records()
    assert undone not in records
    assert decided.ids[0] not in records
    by_rules, by_machine = records[decided.ids[10]], records[unseen]
    for one in (by_rules, by_machine):
        assert (one.automatic, one.posterior, one.accepts, one.rejects) == (True, None, 0, 0)
        assert one.label_weight() == 1
    assert by_machine.propensity is None
    assert by_rules.reasons[0].reason is RejectReason.residue
    assert by_rules.generation == {"sampler": "ddim", "steps": "25", "noise": "4x8x8"}
    people = decided.records(automatic=False)
    assert set(records) - set(people) == {decided.ids[10], unseen}


def test_gold_and_what_shows_a_held_out_image_stay_at_home(decided):
    with decided.database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "update rounds set purpose = 'gold', checkpoint_id = null where id = %s",
            (decided.pair,),
        )
        # A held-out sample that shows what the second candidate, a rejected one, shows.
        tx.connection.exec_driver_sql(
            """with made as (insert into samples (id, kind, visible, split, round, line)
                values (gen_random_uuid(), 'single', repeat('a', 64), 'heldout', 0, '{}')
                returning id)
            insert into sample_layers select made.id, 'foreground', l.sha256
            from made, candidate_layers l where l.candidate_id = %s""",
            (str(decided.ids[1]),),
        )
        found = {uuid.UUID(one.candidate) for one in find_decided(tx).records}
    assert found == {*decided.ids[:10]} - {decided.ids[1]}


def test_objects_of_decisions_are_named_and_differences_are_told(decided):
    before = decided.freeze()
    with decided.database.transaction() as tx:
        named = set(named_objects(tx))
    named |= set(manifest_objects(decided.store, "snapshot", before.id))
    parts = [part.sha256 for part in before.decisions.parts]
    layers = {
        sha for one in read_decisions(decided.store, before.id) for sha in one.layers.values()
    }
    assert {*parts, *layers} <= named
    assert set(parts) <= set(snapshot_objects(decided.store, before.id))
    assert compare_snapshots(decided.store, before.id, before.id).decisions.added == []
    decided.decide(0, decided.ids[11], accept=False)
    after = decided.freeze()
    diff = compare_snapshots(decided.store, before.id, after.id).decisions
    assert diff.added == [decided.ids[11].hex]
    assert (diff.removed, diff.turned) == ([], [])
    assert set(diff.changed) <= {one.hex for one in decided.ids}, "posteriors of the round move"
    plain = decided.freeze(rejects=False)
    assert len(compare_snapshots(decided.store, after.id, plain.id).decisions.removed) == 15


def test_flipped_bits_of_decisions_and_their_layers_name_the_candidate(decided):
    manifest, rng = decided.freeze(), random.Random(5)
    [part] = manifest.decisions.parts
    path = decided.store._path(part.sha256)
    sound = path.read_bytes()
    ids = [json.loads(line)["candidate"] for line in sound.decode().split("\n") if line]
    for _ in range(200):
        data, index = bytearray(sound), rng.randrange(len(sound))
        data[index] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        [damage] = verify_snapshot(decided.store, manifest.id, manifest_only=True)
        line = sound.count(b"\n", 0, index)
        expected = ids[line : line + 2] if sound[index] == 10 else [ids[line]]
        assert (damage.kind, damage.name) == ("decisions", part.sha256)
        assert set(damage.candidates) >= set(expected[:1]), (index, damage)
        if data[index] != 10:
            assert set(damage.candidates) <= set(expected), (index, damage)
    path.write_bytes(sound)
    assert verify_snapshot(decided.store, manifest.id) == []
    rejected = next(
        one for one in read_decisions(decided.store, manifest.id) if one.verdict is Verdict.reject
    )
    decided.store._path(rejected.layers[LayerRole.foreground]).write_bytes(b"x")
    [damage] = verify_snapshot(decided.store, manifest.id)
    assert (damage.kind, damage.candidates, damage.samples) == ("layer", (rejected.candidate,), ())


def test_a_line_is_the_format_that_others_read(decided):
    one = next(iter(decided.records().values()))
    assert DecisionRecord.read(one.line()) == one
    with pytest.raises(ValueError, match="check"):
        DecisionRecord.read(one.line().replace('"accepts":0', '"accepts":9').replace(
            '"accepts":1', '"accepts":9'))  # fmt: skip
