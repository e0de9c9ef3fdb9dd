"""A round whose candidates several people decide, at a real Label Studio: each is asked there, and the majority stands."""

from __future__ import annotations

import httpx
import pytest

from curation.domain import RejectReason
from curation.labeling import projects, reconcile
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from tests.support.label_studio import ACCEPT, REJECT, Seat
from tests.making import make_candidates, make_round

pytestmark = pytest.mark.slow

ADA, BOB, CID = "ada@example.org", "bob@example.org", "cid@example.org"


@pytest.fixture
def three(seat, store) -> Seat:
    """A round in which three people decide each of two candidates, put up."""
    with seat.database.transaction() as tx:
        number = make_round(tx)
        set_consensus(tx, number, ConsensusSettings(ConsensusRule.majority, 3), "test")
        made = make_candidates(tx, store, number, 2)
    assert seat.exchange.push(number) == {}, (
        "people there see what others said, so it is not offered unasked"
    )
    with seat.database.transaction() as tx:
        assert "can see the annotations of others" in projects.switch_interface(
            tx, number, "label-studio", "test"
        )
    seat.exchange.push(number)
    return Seat(seat.studio, seat.database, seat.exchange, number, made)


def given(seat: Seat) -> int | None:
    """The task that Label Studio gives to its owner next; None where all is answered."""
    owner = {"Authorization": f"Token {seat.studio.server.token}"}
    url = f"{seat.studio.server.address}/api/projects/{seat.board.remote_id}/next"
    answer = httpx.get(url, headers=owner, timeout=60)
    return None if answer.status_code == 404 else int(answer.raise_for_status().json()["id"])


def test_each_is_given_to_so_many_people_and_the_majority_stands(three):
    first = three.task(0)
    three.studio.say(first, ACCEPT, by=ADA)
    assert three.exchange.pull(three.round) == {"decided": 1}
    assert (three.state(0), given(three)) == ("waiting", first), "it is begun, so it comes first"
    doubtful = three.studio.say(first, ACCEPT, by=BOB)
    three.studio.change(doubtful, REJECT, [RejectReason.halo])
    assert three.exchange.pull(three.round) == {"decided": 1}
    assert three.state(0) == "waiting"
    three.studio.change(doubtful, ACCEPT)
    three.studio.say(first, REJECT, by=CID)
    assert three.exchange.pull(three.round) == {"decided": 2}
    assert three.state(0) == "accepted"
    assert [verdict for verdict, _ in three.decided(0)] == [
        "accept",
        "reject",
        "undo",
        "accept",
        "reject",
    ]
    assert given(three) == three.task(1)
    assert reconcile.compare(three.exchange, three.round) == []


def test_an_overlap_said_later_reaches_a_board_that_is_there(seat):
    with seat.database.transaction() as tx:
        set_consensus(tx, seat.round, ConsensusSettings(ConsensusRule.majority, 3), "test")
        projects.switch_interface(tx, seat.round, "pages", "test")
    assert seat.exchange.push(seat.round) == {"removed": 8}
    with seat.database.transaction() as tx:
        projects.switch_interface(tx, seat.round, "label-studio", "test")
    assert seat.exchange.push(seat.round) == {"pushed": 8}
    assert seat.studio.client.projects.get(seat.board.remote_id).maximum_annotations == 3
