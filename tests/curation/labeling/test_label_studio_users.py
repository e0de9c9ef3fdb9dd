"""Several users of Label Studio and the review page: attribution, reservation and refusals."""

from __future__ import annotations

import re
import threading
import uuid
from collections import Counter

import pytest
import sqlalchemy as sa

from curation.adapters.label_studio_results import build_result
from curation.db.tables import gold, rounds
from curation.domain import RejectReason
from curation.labeling import reconcile, tasks
from curation.review import decisions, queue, reviewers
from curation.review.gold import GoldSettings, set_gold
from tests.support.factories import make_candidates, make_round
from tests.support.label_studio import ACCEPT, REJECT, LabeledRound

pytestmark = pytest.mark.slow

ADA, BOB = "ada@example.org", "bob@example.org"


def test_an_edit_is_attributed_to_its_editor(labeled):
    annotation = labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    labeled.sync.pull()
    labeled.studio.edit_annotation(annotation, REJECT, [RejectReason.halo], by=BOB)
    assert labeled.sync.pull() == {"decided": 1}
    assert labeled.decisions(0) == [("accept", ADA), ("undo", ADA), ("reject", BOB)]
    with labeled.database.transaction() as tx:
        found = tx.connection.exec_driver_sql(
            "select actor from events where kind = 'annotation of another user edited'"
        )
        assert [row.actor for row in found] == [BOB]
    labeled.studio.edit_annotation(annotation, ACCEPT, by=ADA)
    labeled.sync.pull()
    assert labeled.decisions(0)[-1] == ("accept", ADA)


def test_edits_before_the_first_read_are_attributed_to_the_editor(labeled):
    labeled.studio.edit_annotation(
        labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA), REJECT, by=BOB
    )
    forged = {"result": build_result(ACCEPT), "completed_by": labeled.studio.user_id(ADA)}
    path = f"/api/tasks/{labeled.task(1)}/annotations"
    labeled.studio.session(BOB).post(path, json=forged).raise_for_status()
    assert labeled.sync.pull() == {"decided": 2}
    assert (labeled.decisions(0), labeled.decisions(1)) == ([("reject", BOB)], [("accept", BOB)])


def test_a_refused_edit_keeps_the_earlier_decision(labeled):
    annotation = labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    labeled.studio.annotate(labeled.task(1), ACCEPT, by=BOB)
    labeled.sync.pull()
    with labeled.database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, BOB))
    labeled.studio.edit_annotation(annotation, REJECT, by=BOB)
    assert labeled.sync.pull() == {"refused": 1}
    assert (labeled.state(0), labeled.decisions(0)) == ("accepted", [("accept", ADA)])


def test_refusals_are_shown_in_the_task_and_listed(labeled):
    labeled.studio.annotate(labeled.task(0), ACCEPT, by=ADA)
    late = labeled.studio.annotate(labeled.task(0), REJECT, by=BOB)
    unread = labeled.studio.annotate(labeled.task(1), result=[], by=ADA)
    labeled.sync.pull()
    first, second = (
        labeled.studio.client.tasks.get(str(labeled.task(position))) for position in (0, 1)
    )
    assert first.data["note"] == f"Not counted here: {BOB}: this candidate is already decided"
    assert first.data["note"] in first.data["look"]
    assert "neither accept nor reject" in second.data["note"]
    assert (second.is_labeled, second.overlap) == (False, 2), (
        "it waits there too, for somebody else"
    )
    with labeled.database.transaction() as tx:
        refusals = tasks.list_refusals(tx, labeled.round)
    assert {(one["annotation"], one["user"]) for one in refusals} == {(late, BOB), (unread, ADA)}
    assert labeled.sync.pull() == {}, "to say so is no news"
    labeled.studio.annotate(labeled.task(1), REJECT, by=BOB)
    assert labeled.sync.pull() == {"decided": 1}
    assert [one for one in reconcile.compare(labeled.sync, labeled.round) if one.repairable] == []


def test_gold_is_never_pushed(labeled, store):
    with labeled.database.transaction() as tx:
        row = {"purpose": "gold", "kind": "single", "quota": 0, "policy": {}, "state": "open"}
        of_gold = int(tx.scalar(sa.insert(rounds).values(row).returning(rounds.c.id)))
        pieces = make_candidates(tx, store, of_gold, 3)
        for one in pieces:
            hidden = {
                "candidate_id": one,
                "round_id": labeled.round,
                "sample_id": uuid.uuid4(),
                "severity": 0.0,
            }
            tx.execute(sa.insert(gold).values(hidden))
        set_gold(tx, labeled.round, GoldSettings(0.5), "test")
    before = len(labeled.studio.client.projects.list().items)
    assert labeled.sync.push(of_gold) == {}
    assert labeled.sync.push(labeled.round) == {}
    assert len(labeled.studio.client.projects.list().items) == before
    assert reconcile.compare(labeled.sync) == []
    assert set(labeled.studio.tasks(labeled.project.remote_id)) == set(map(str, labeled.candidates))


def test_a_task_annotated_during_removal_is_kept(labeled, monkeypatch):
    """A user annotates between the read and the deletion; the task is kept until that is read."""
    with labeled.database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada").id
        held = queue.claim_items(tx, ada, labeled.round, 2, (), 60)
    position = labeled.candidates.index(held[0].id)
    read = labeled.sync.backend.remove

    def answer_first(*args):
        monkeypatch.undo()
        labeled.studio.annotate(labeled.task(position), ACCEPT, by=BOB)
        return read(*args)

    monkeypatch.setattr(labeled.sync.backend, "remove", answer_first)
    assert labeled.sync.push(labeled.round) == {"removed": 2}
    with labeled.database.transaction() as tx:
        reviewers.deactivate(tx, reviewers.find_reviewer(tx, "ada"))
    assert labeled.sync.pull() == {"decided": 1}
    assert labeled.decisions(position) == [("accept", BOB)]


@pytest.mark.parametrize("labeled", [60], indirect=True)
def test_concurrent_users_of_both_interfaces(labeled):
    """Two users annotate in Label Studio and two on the review page, while a worker synchronizes."""
    for email in (ADA, BOB):
        labeled.studio.session(email)
    labeled.sync.pull()  # they have signed in, so the first tasks are left to them
    done = threading.Event()
    project = labeled.project.remote_id

    def at_label_studio(email: str) -> None:
        client = labeled.studio.session(email)
        for _ in range(12):
            found = client.get(f"/api/projects/{project}/next")
            if found.status_code == 404:
                return
            path = f"/api/tasks/{found.json()['id']}/annotations?project={project}"
            client.post(path, json={"result": build_result(ACCEPT), "lead_time": 0.5})

    def at_the_pages(name: str) -> None:
        with labeled.database.transaction() as tx:
            me = reviewers.add_reviewer(tx, name).id
        for _ in range(4):
            with labeled.database.transaction() as tx:
                items = queue.claim_items(tx, me, labeled.round, 4, (), 60)
            done.wait(1)
            for item in items:
                with labeled.database.transaction() as tx:
                    decisions.decide(tx, me, item.id, REJECT, key=uuid.uuid4())

    def worker() -> None:
        while not done.wait(0.5):
            labeled.sync.push(labeled.round)
            labeled.sync.pull()

    people = [threading.Thread(target=at_label_studio, args=(email,)) for email in (ADA, BOB)]
    people += [threading.Thread(target=at_the_pages, args=(name,)) for name in ("eve", "fay")]
    carrying = threading.Thread(target=worker)
    for thread in (carrying, *people):
        thread.start()
    for thread in people:
        thread.join()
    done.set()
    carrying.join()
    labeled.sync.pull()
    standing: Counter[int] = Counter()
    for position in range(60):
        standing[
            len([verdict for verdict, _ in labeled.decisions(position) if verdict != "skip"])
        ] += 1
    assert set(standing) <= {0, 1}, "nobody's decision was made twice"
    assert standing[1] >= 40
    # An answer given between two of the worker's turns may come too late; without reservation, most of them do.
    late = [why for why in labeled.refusals() if re.search("already", why)]
    assert len(late) <= 14, f"reserved on both sides, {len(late)} of some 56 answers came too late"
    labeled.sync.push(labeled.round)
    assert [one for one in reconcile.compare(labeled.sync, labeled.round) if one.repairable] == []


def test_two_thousand_tasks_are_pushed_and_removed(studio, backend, database, store):
    from curation.labeling.previews import PreviewUrls
    from curation.labeling.sync import LabelingSync
    from curation.rounds import lifecycle as rounds_room

    with database.transaction() as tx:
        round_id = make_round(tx)
        made = make_candidates(tx, store, round_id, 2_000)
    sync = LabelingSync(
        database,
        backend,
        "test",
        PreviewUrls("secret", "http://127.0.0.1:1").sign_url,
        10_000,
        pause=0,
    )
    two = LabeledRound(studio, database, sync, round_id, made)
    assert [sync.push(round_id)["pushed"] for _ in range(2)] == [1_000, 1_000]
    project = two.project.remote_id
    studio.annotate(two.task(7), ACCEPT, by=ADA)
    assert sync.pull() == {"decided": 1}
    assert len(studio.tasks(project)) == 2_000
    with database.transaction() as tx:
        rounds_room.close_round(tx, round_id, "test")
    assert sync.push(round_id) == {"removed": 1_999}
    assert list(studio.tasks(project)) == [str(made[7])]
